"""Creates files with data or secrets, which not every user of the machine may read."""

import os
import stat
import tempfile
from pathlib import Path


def create_private(file: Path, content: bytes = b"") -> None:
    """Create a file for its owner alone or, in a folder in which its group may write, for that group as well.

    The latter is so that containers which run as different users, all in group 0, can share a volume.

    Raises:
        FileExistsError: it exists already, perhaps since a moment ago; it is left as it is.
        OSError: it cannot be created.
    """
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-") as draft:
        draft.write(content)
        draft.flush()
        folder = file.parent.stat()
        if folder.st_mode & stat.S_IWGRP and folder.st_gid == os.fstat(draft.fileno()).st_gid:
            os.fchmod(draft.fileno(), 0o660)
        file.hardlink_to(draft.name)  # nobody sees it before it is whole
