"""Creates files with data or secrets, which other users of the machine must not read."""

import os
import stat
import tempfile
from pathlib import Path


def create_private(file: Path, content: bytes = b"") -> None:
    """Create a file for its owner alone or, in a folder that is writable by its group, for that group as well.

    This lets containers that run as different users, all in group 0, share a volume.

    Raises:
        FileExistsError: the file exists, and is left as it is; another process may have just created it.
        OSError: the file cannot be created.
    """
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-") as draft:
        draft.write(content)
        draft.flush()
        folder = file.parent.stat()
        if folder.st_mode & stat.S_IWGRP and folder.st_gid == os.fstat(draft.fileno()).st_gid:
            os.fchmod(draft.fileno(), 0o660)
        file.hardlink_to(draft.name)  # so nobody ever sees half of it
