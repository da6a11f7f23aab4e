"""The service's own errors, whichever interface the request came through."""


class ServiceError(Exception):
    """The text is written for the caller; `status` is the HTTP status of this kind of error."""

    status: int


class InvalidInput(ServiceError):
    status = 422


class Forbidden(ServiceError):
    status = 403


class NotFound(ServiceError):
    status = 404


class Conflict(ServiceError):
    status = 409


class DatabaseUnavailable(ServiceError):
    """The database cannot be reached or cannot work. What the driver says of it is only in the logs."""

    status = 503

    def __init__(self, text: str = "The database is unavailable; try again in a few seconds.") -> None:
        super().__init__(text)
