"""How `python -m app` serves `app.main:create_app()`: on both ports, as `app.settings` says, with JSON logs."""

import atexit
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

# Until the workers are forked there is hardly any garbage, and collecting it takes a tenth of the start.
gc.disable()

# prometheus_client reads this when it is imported, which preloading does soon.
metrics_folder = Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR") or tempfile.mkdtemp(prefix="metrics-"))
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folder)
master = os.getpid()


@atexit.register
def remove_metrics() -> None:
    """Runs however the master ends, but not in the workers, which inherit it."""
    if os.getpid() == master:
        shutil.rmtree(metrics_folder, ignore_errors=True)


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
        "proxy_headers": False,  # nothing here depends on the client's address
        "lifespan": "on",
        "server_header": False,
        "ws": "none",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Notify the master each second: by default, a worker that pauses for half of `timeout` may be killed.
        self.config.timeout_notify = 1
        # When this is over, requests get a 503; two seconds later, gunicorn would cut them off.
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout - 2

    async def callback_notify(self) -> None:
        """Exit if the master is gone: nobody else would stop this worker, which would keep the ports in use."""
        await super().callback_notify()
        if os.getppid() != self.ppid:
            self.log.error("The master process is gone, so worker %s is stopping", self.pid)
            os.kill(self.pid, signal.SIGTERM)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish requests on SIGQUIT too, which the master sends after a SIGINT."""
        os.kill(self.pid, signal.SIGTERM)


wsgi_app = "app.main:create_app()"
bind = settings.bind
worker_class = Worker
workers = settings.web_concurrency
timeout = 30
graceful_timeout = 10
keepalive = 75  # longer than the idle timeout of common load balancers, which would otherwise use closed connections
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # heartbeats must not wait for a disk
control_socket_disable = True  # it would be created in $HOME, which may be read-only
logconfig_dict = log_config(settings.log_level)
preload_app = True  # workers share the memory of the code, and an error in it ends the master instead of each worker


def wait_for_ports(addresses: list[tuple[str, int] | str], timeout: float = 2) -> None:
    """Exit with one sentence if a port is in use: gunicorn would log ten lines first."""
    deadline = time.monotonic() + timeout
    for host, port in (address for address in addresses if not isinstance(address, str)):  # strings are Unix sockets
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
    if "GUNICORN_FD" not in os.environ:  # set if a new master inherits the sockets of the old one
        wait_for_ports(server.cfg.address)
    metrics_folder.mkdir(parents=True, exist_ok=True)
    for left_over in metrics_folder.glob("*.db"):
        left_over.unlink()
    if settings.migrates_on_start:
        migrate(settings)


def when_ready(server: Arbiter) -> None:
    gc.freeze()  # workers need not scan what is loaded by now, which would also copy memory that they share
    gc.enable()
    if settings.environment == "development":
        server.handle_hup = server.handle_term  # when a terminal is closed; in production, SIGHUP reloads
    rest, mcp = f"http://{bind[0]}", f"http://{bind[-1]}/mcp"
    server.log.info("%s %s serves REST at %s, documented at %s/docs, and MCP at %s", TITLE, VERSION, rest, rest, mcp)


def child_exit(server: Arbiter, worker: Worker) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
