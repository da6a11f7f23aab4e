"""Many clients that write at once, and what they were told: the measure of what must be stored afterwards."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from itertools import count
from typing import Any

import httpx2

from tests.server import Server

CREATORS = 30
SHARED_TASKS = 4
FIELDS: dict[str, Callable[[int], str]] = {
    "title": "Title {}".format,
    "description": "Description {}".format,
    "due_date": lambda number: str(date(2030, 1, 1) + timedelta(days=number)),
    "priority": lambda number: ("low", "normal", "high", "urgent")[number % 4],
    "status": lambda number: ("todo", "in_progress", "done")[number % 3],
}
"""Each field of each shared task has one client, which alone writes it: fifty clients with the creators."""


class Load:
    """`outage_expected` says that 503 is no fault: such a request is counted in `refused`, and sent again."""

    def __init__(self, server: Server, key: str, *, outage_expected: bool = False) -> None:
        self.cut = 0
        """Requests whose connection broke: nobody knows whether they were done."""
        self.refused = 0
        self.created: dict[int, str] = {}
        """Title by id, as far as acknowledged."""
        self._attempted: set[str] = set()
        self._shared: dict[int, dict[str, str]] = {}
        self._url = server.url
        self._headers = {"X-API-Key": key}
        self._outage_expected = outage_expected

    async def run(self, seconds: float, meanwhile: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> None:
        """Write for at least `seconds`, and until `meanwhile` is over."""
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(
            base_url=self._url, headers=self._headers, limits=limits, timeout=30
        ) as self._client:
            for _ in range(SHARED_TASKS):
                task = await self._send("POST", "/tasks", {"title": "Shared"})
                assert task is not None
                self._shared[task["id"]] = {}
            self._deadline = time.monotonic() + seconds
            async with asyncio.TaskGroup() as clients:
                for creator in range(CREATORS):
                    clients.create_task(self._create(creator))
                for task_id in self._shared:
                    for field in FIELDS:
                        clients.create_task(self._own(task_id, field))
                await meanwhile(self._client)

    def check(self) -> None:
        """Everything acknowledged is stored, once and unchanged, and nothing that nobody sent."""
        stored = self._read_all()
        for task_id, fields in self._shared.items():
            task = stored.pop(task_id)
            assert {name: task[name] for name in FIELDS} == fields
        titles = {task_id: task["title"] for task_id, task in stored.items()}
        assert self.created.items() <= titles.items()
        assert set(titles.values()) <= self._attempted
        assert len(set(titles.values())) == len(titles)

    def _read_all(self) -> dict[int, dict[str, Any]]:
        tasks = {}
        query = {"limit": 200}
        with httpx2.Client(base_url=self._url, headers=self._headers) as client:
            while True:
                page = client.get("/tasks", params=query).json()
                tasks.update({task["id"]: task for task in page["items"]})
                if page["next_cursor"] is None:
                    return tasks
                query["cursor"] = page["next_cursor"]

    async def _create(self, creator: int) -> None:
        for number in count():
            title = f"{creator}/{number}"
            self._attempted.add(title)
            task = await self._send("POST", "/tasks", {"title": title})
            if task is not None:
                self.created[task["id"]] = title
            if time.monotonic() > self._deadline:
                return

    async def _own(self, task_id: int, field: str) -> None:
        path = f"/tasks/{task_id}"
        for number in count():
            value = FIELDS[field](number)
            while await self._send("PATCH", path, {field: value}) is None:
                pass
            task = await self._send("GET", path)
            assert task is None or task[field] == value, "another client's update took this one back"
            if time.monotonic() > self._deadline:
                self._shared[task_id][field] = value
                return

    async def _send(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any] | None:
        """The answer, or nothing if there was none or the database was out of reach."""
        try:
            response = await self._client.request(method, path, json=body)
        except httpx2.TransportError:
            self.cut += 1
            return None
        if response.status_code == 503 and self._outage_expected:
            assert response.json()["detail"]
            self.refused += 1
            await asyncio.sleep(0.1)
            return None
        assert response.status_code in (200, 201), response.text
        answer: dict[str, Any] = response.json()
        return answer
