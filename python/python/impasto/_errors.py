"""Exceptions. Their messages are those of the command, and their classes say what its exit codes say."""


class Error(Exception):
    """Any error of this package."""


class SystemFailure(Error, OSError):
    """Files, threads, memory or the network failed."""

    def __str__(self) -> str:
        return Error.__str__(self)


class NotFoundError(SystemFailure, FileNotFoundError):
    """A file is not there."""


class UsageError(Error, ValueError):
    """An option is out of range, or contradicts another."""


class InvalidError(Error, ValueError):
    """An input is invalid or not supported."""


class DamagedError(InvalidError):
    """A part of a file does not have its hash."""


class AbsentError(Error):
    """A part of a file, or the base of a delta, is not there."""


class SizeError(Error, ValueError):
    """The size that was asked for cannot be reached."""


class TensorNotFoundError(Error, KeyError):
    """A file has no tensor of that name."""

    def __str__(self) -> str:
        return Error.__str__(self)


class CancelledError(Error):
    """A callback cancelled the work."""


class MissingPackageError(Error, ImportError):
    """A package that is not installed is needed."""


for _class in list(vars().values()):
    if isinstance(_class, type) and issubclass(_class, Error):
        _class.__module__ = "impasto"
