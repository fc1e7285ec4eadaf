"""What the operating system says of a file, in the person's language where it is among the usual things."""

import errno

from tunesmith.messages.catalogue import Phrase

USUAL = {
    errno.EACCES: Phrase("Permission denied"),
    errno.EPERM: Phrase("Operation not permitted"),
    errno.ENOENT: Phrase("No such file or directory"),
    errno.EEXIST: Phrase("File exists"),
    errno.EISDIR: Phrase("Is a directory"),
    errno.ENOTDIR: Phrase("Not a directory"),
    errno.ENOSPC: Phrase("No space left on device"),
    errno.EROFS: Phrase("Read-only file system"),
    errno.EIO: Phrase("Input/output error"),
    errno.EMFILE: Phrase("Too many open files"),
    errno.ENAMETOOLONG: Phrase("File name too long"),
}


def said_by_system(error: Exception) -> Phrase:
    """Why something could not be read or written, on one line; the file's name is not part of it."""
    if isinstance(error, OSError) and error.errno in USUAL:
        return USUAL[error.errno]
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Phrase("{words}", {"words": " ".join(str(words).split())})
