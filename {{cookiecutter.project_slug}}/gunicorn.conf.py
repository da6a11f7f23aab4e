"""How `python -m app` serves `app.main:create_app()`: both ports, the settings of `app.settings`, JSON logs."""

import errno
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

# Until the workers are forked, nothing becomes garbage, and to look for some takes a tenth of the start.
gc.disable()

# prometheus_client reads this when it is first imported, and with preload that is soon.
metrics_folder = Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR") or tempfile.mkdtemp(prefix="metrics-"))
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folder)

from gunicorn.arbiter import Arbiter  # noqa: E402
from uvicorn_worker import UvicornWorker  # noqa: E402

from app.db.migrate import migrate  # noqa: E402
from app.logs import log_config  # noqa: E402
from app.settings import TITLE, VERSION, load_settings  # noqa: E402
from app.web.connections import LimitedHttpProtocol  # noqa: E402

settings = load_settings()


class Worker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS: ClassVar = {
        **UvicornWorker.CONFIG_KWARGS,
        "access_log": False,
        "http": LimitedHttpProtocol,
        "proxy_headers": False,  # nothing here depends on who a proxy says that it stands for
        "lifespan": "on",
        "server_header": False,
        "timeout_graceful_shutdown": 8,  # seconds; then a request gets 503, before gunicorn's 10 cut it off
        "ws": "none",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The worker's sign of life, each second: at half of `timeout`, a hung one could be killed twice as early.
        self.config.timeout_notify = 1

    async def callback_notify(self) -> None:
        """End without a master, which could not stop this worker any more: a new service could not have its ports."""
        await super().callback_notify()
        if os.getppid() != self.ppid:
            self.log.error("The master process is gone, so worker %s is stopping", self.pid)
            os.kill(self.pid, signal.SIGTERM)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGQUIT, which is what the master makes of SIGINT, finish the requests in flight."""
        os.kill(self.pid, signal.SIGTERM)


wsgi_app = "app.main:create_app()"
bind = settings.bind
worker_class = Worker
workers = settings.web_concurrency
timeout = 30
graceful_timeout = 10
keepalive = 75  # longer than the idle time-out of common load balancers, which would else meet closed connections
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # signs of life must not wait for a disk
control_socket_disable = True  # it would be written to $HOME, which may be read-only
logconfig_dict = log_config(settings.log_level)
preload_app = True  # the workers share the code's memory, and a fault in it ends the master instead of each worker


def wait_for_ports(addresses: list[tuple[str, int] | str], timeout: float = 5) -> None:
    """End with one sentence if another process has a port: gunicorn would log ten lines first."""
    deadline = time.monotonic() + timeout
    for host, port in (address for address in addresses if not isinstance(address, str)):  # which is a Unix socket
        while True:
            try:
                socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    reason = str(error.strerror).partition(" (while")[0]
                    sys.exit(f"Cannot listen on {host}:{port}: {reason}. Stop what uses it, or set PORT or MCP_PORT.")
                time.sleep(0.1)


def on_starting(server: Arbiter) -> None:
    if "GUNICORN_FD" not in os.environ:  # with which a new master inherits the ports of the one that it replaces
        wait_for_ports(server.cfg.address)
    metrics_folder.mkdir(parents=True, exist_ok=True)
    for left_over in metrics_folder.glob("*.db"):
        left_over.unlink()
    if settings.migrates_on_start:
        migrate(settings)


def when_ready(server: Arbiter) -> None:
    gc.freeze()  # what is loaded by now stays: no worker need look at it, which would also copy the memory they share
    gc.enable()
    if settings.environment == "development":
        server.handle_hup = server.handle_term  # the terminal was closed; in production SIGHUP reloads
    rest, mcp = f"http://{bind[0]}", f"http://{bind[-1]}/mcp"
    server.log.info("%s %s serves REST at %s, documented at %s/docs, and MCP at %s", TITLE, VERSION, rest, rest, mcp)


def child_exit(server: Arbiter, worker: Worker) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Arbiter) -> None:
    shutil.rmtree(metrics_folder, ignore_errors=True)
