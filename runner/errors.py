"""Errors that a person can put right, and the exit codes of the commands."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    FINISHED = 0
    TRIAL_FAILED = 1
    BAD_INPUT = 2
    STOPPED = 75
    INTERRUPTED = 130


class UserError(Exception):
    """An error that the person at the keyboard can put right; its text says what is wrong and what to do."""

    exit_code = Exit.BAD_INPUT


class ConfigError(UserError):
    """A field of an experiment that breaks a rule."""


class DataError(UserError):
    """A data set that can't be used."""


class StorageError(UserError):
    """A storage folder that can't be used, or is in use."""


class CacheError(StorageError):
    """The folder for local copies of what is in a bucket can't be used."""


class FullError(UserError):
    """The disk got full during a run: once there is room, the same command goes on."""

    exit_code = Exit.STOPPED


class ResourceError(UserError):
    """A request for more than the machine or cluster has."""
