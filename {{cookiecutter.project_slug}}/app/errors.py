"""What can go wrong in the service, whichever door the call came through."""


class ServiceError(Exception):
    """The text is written for the caller. `status` is what HTTP calls this kind of error."""

    status: int


class NotFound(ServiceError):
    status = 404


class Conflict(ServiceError):
    status = 409


class DatabaseUnavailable(ServiceError):
    """The database does not answer or cannot work; the text is the reason."""

    status = 503
