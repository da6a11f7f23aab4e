"""Many clients that write at once and remember the responses, which say what must be stored afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import httpx2

from tests.server import Server

CREATORS = 30
SHARED_GIZMOS = 4
FIELDS = ("title", "content", "author", "language", "source")
"""Each field of each shared gizmo is written by one client only. With the creators, that makes fifty clients."""
PROGRESS_TIMEOUT = 60.0


class Load:
    """With `outage_expected`, a 503 is not an error: the request is counted in `refused` and sent again."""

    def __init__(self, server: Server, key: str, *, outage_expected: bool = False) -> None:
        self.cut = 0
        """Requests whose connection broke, so that their outcome is unknown."""
        self.refused = 0
        self.created: dict[int, str] = {}
        """Acknowledged titles, by id."""
        self._attempted: set[str] = set()
        self._shared: dict[int, dict[str, str]] = {}
        self._url = server.url
        self._headers = {"X-API-Key": key}
        self._outage_expected = outage_expected
        self._has_created = asyncio.Event()
        self._is_over = False

    async def run(self, meanwhile: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> None:
        """Write until `meanwhile` is done, which can wait for `progress`."""
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(
            base_url=self._url, headers=self._headers, limits=limits, timeout=30
        ) as self._client:
            for _ in range(SHARED_GIZMOS):
                gizmo = await self._send("POST", "/gizmos", {"title": "Shared"})
                assert gizmo is not None
                self._shared[gizmo["id"]] = {}
            async with asyncio.TaskGroup() as clients:
                for creator in range(CREATORS):
                    clients.create_task(self._create(creator))
                for gizmo_id in self._shared:
                    for field in FIELDS:
                        clients.create_task(self._own(gizmo_id, field))
                try:
                    await meanwhile(self._client)
                finally:
                    self._is_over = True

    async def progress(self, gizmos: int = 100) -> None:
        """Wait until this many more gizmos are created."""
        goal = len(self.created) + gizmos
        async with asyncio.timeout(PROGRESS_TIMEOUT):
            while len(self.created) < goal:
                self._has_created.clear()
                await self._has_created.wait()

    def check(self) -> None:
        """Check that everything acknowledged is stored once and unchanged, and nothing that was not sent."""
        stored = self._read_all()
        for gizmo_id, fields in self._shared.items():
            gizmo = stored.pop(gizmo_id)
            assert {name: gizmo[name] for name in FIELDS} == fields
        titles = {gizmo_id: gizmo["title"] for gizmo_id, gizmo in stored.items()}
        assert self.created.items() <= titles.items()
        assert set(titles.values()) <= self._attempted
        assert len(set(titles.values())) == len(titles)

    def _read_all(self) -> dict[int, dict[str, Any]]:
        gizmos = {}
        query = {"limit": 200}
        with httpx2.Client(base_url=self._url, headers=self._headers, timeout=30) as client:
            while True:
                page = client.get("/gizmos", params=query).json()
                gizmos.update({gizmo["id"]: gizmo for gizmo in page["items"]})
                if page["next_cursor"] is None:
                    return gizmos
                query["cursor"] = page["next_cursor"]

    async def _create(self, creator: int) -> None:
        for number in count():
            title = f"{creator}/{number}"
            self._attempted.add(title)
            gizmo = await self._send("POST", "/gizmos", {"title": title})
            if gizmo is not None:
                self.created[gizmo["id"]] = title
                self._has_created.set()
            if self._is_over:
                return

    async def _own(self, gizmo_id: int, field: str) -> None:
        path = f"/gizmos/{gizmo_id}"
        for number in count():
            value = f"{field} {number}"
            while await self._send("PATCH", path, {field: value}) is None:
                pass
            gizmo = await self._send("GET", path)
            assert gizmo is None or gizmo[field] == value, "another client's update took this one back"
            if self._is_over:
                self._shared[gizmo_id][field] = value
                return

    async def _send(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any] | None:
        """Return the response, or None if there was none or the database was unavailable."""
        try:
            response = await self._client.request(method, path, json=body)
        except httpx2.TransportError:
            self.cut += 1
            return None
        if response.status_code == 503 and self._outage_expected:
            assert response.json()["detail"] == "The database is unavailable; try again in a few seconds."
            self.refused += 1
            await asyncio.sleep(0.1)
            return None
        assert response.status_code in (200, 201), response.text
        answer: dict[str, Any] = response.json()
        return answer
