"""What can end a command, and the exit code it ends with."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    FINISHED = 0
    TRIAL_FAILED = 1
    BAD_INPUT = 2
    STOPPED = 75
    INTERRUPTED = 130


class UserError(Exception):
    """Something that the person at the keyboard can put right; the text says what and how."""

    exit_code = Exit.BAD_INPUT


class ConfigError(UserError):
    """A field of an experiment that breaks a rule."""


class DataError(UserError):
    """A data set that can't be used."""


class StorageError(UserError):
    """A storage folder that can't be used, or is in use."""


class FullError(UserError):
    """No room on the disk in the middle of a run: once there is, the same command goes on."""

    exit_code = Exit.STOPPED


class ResourceError(UserError):
    """A request that the machine or cluster can never meet."""
