"""What the operating system says of a file, in the person's language where it is among the usual things."""

import errno

from tunesmith.i18n import LazyString

USUAL = {
    errno.EACCES: LazyString("Permission denied"),
    errno.EPERM: LazyString("Operation not permitted"),
    errno.ENOENT: LazyString("No such file or directory"),
    errno.EEXIST: LazyString("File exists"),
    errno.EISDIR: LazyString("Is a directory"),
    errno.ENOTDIR: LazyString("Not a directory"),
    errno.ENOSPC: LazyString("No space left on device"),
    errno.EROFS: LazyString("Read-only file system"),
    errno.EIO: LazyString("Input/output error"),
    errno.EMFILE: LazyString("Too many open files"),
    errno.ENAMETOOLONG: LazyString("File name too long"),
}


def describe_os_error(error: Exception) -> LazyString:
    """Why something could not be read or written, on one line; the file's name is not part of it."""
    if isinstance(error, OSError) and error.errno in USUAL:
        return USUAL[error.errno]
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return LazyString("{words}", {"words": " ".join(str(words).split())})
