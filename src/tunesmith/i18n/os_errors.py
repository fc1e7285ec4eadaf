"""Translate the common errors of the operating system."""

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
    """Return the reason of a failed read or write on one line, without the file's name."""
    if isinstance(error, OSError) and error.errno in USUAL:
        return USUAL[error.errno]
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return LazyString("{words}", {"words": " ".join(str(words).split())})
