"""Unknown query parameters are rejected, and odd but valid requests are answered."""

import pytest
from starlette.testclient import TestClient


@pytest.mark.parametrize(
    ("path", "pointer", "detail"),
    [
        ("/gizmos?owner=ann", "query/owner", "Unknown parameter. This route takes query, limit, cursor."),
        ("/gizmos?limit=5&Limit=6", "query/Limit", "Unknown parameter. This route takes query, limit, cursor."),
        ("/gizmos/1?full=1", "query/full", "Unknown parameter. This route takes none."),
        ("/gizmos?limit=1_0", "query/limit", "must be an integer"),
        ("/gizmos?limit=%2B5", "query/limit", "must be an integer"),
        ("/gizmos?limit=5.0", "query/limit", "must be an integer"),
        ("/gizmos?cursor=%C2%B2", "query/cursor", "must be an integer"),
    ],
)
def test_an_invalid_query_parameter_is_rejected_by_name(
    client: TestClient, path: str, pointer: str, detail: str
) -> None:
    response = client.get(path)
    assert response.status_code == 422
    assert response.json()["errors"] == [{"pointer": pointer, "detail": detail}]


@pytest.mark.parametrize("path", ["/live", "/health", "/ready"])
def test_probes_answer_head_and_ignore_query_parameters(client: TestClient, path: str) -> None:
    assert (client.head(path).status_code, client.head(path).content) == (200, b"")
    assert client.get(f"{path}?nocache=1").status_code == 200


def test_a_trailing_slash_is_not_redirected(client: TestClient) -> None:
    """Behind a proxy that terminates TLS, it would lead to http://, and clients would send their key there."""
    assert client.get("/gizmos/").status_code in (404, 422)
