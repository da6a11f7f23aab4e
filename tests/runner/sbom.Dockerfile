# Where Docker Hub cannot be reached, this stands in for docker/buildkit-syft-scanner: it lists the Python packages of an image.
FROM python:3.12-slim
COPY <<'END' /scan.py
import json
import os
from pathlib import Path

folders = Path(os.environ["BUILDKIT_SCAN_SOURCE"]).rglob("*.dist-info")
packages = [folder.name.removesuffix(".dist-info").replace("_", "-").rsplit("-", 1) for folder in folders]
statement = {
    "_type": "https://in-toto.io/Statement/v0.1",
    "predicateType": "https://spdx.dev/Document",
    "subject": [],
    "predicate": {
        "SPDXID": "SPDXRef-DOCUMENT",
        "spdxVersion": "SPDX-2.3",
        "packages": [
            {"SPDXID": f"SPDXRef-{name}", "name": name, "versionInfo": version} for name, version in sorted(packages)
        ],
    },
}
Path(os.environ["BUILDKIT_SCAN_DESTINATION"], "sbom.spdx.json").write_text(json.dumps(statement))
END
ENTRYPOINT ["python", "/scan.py"]
