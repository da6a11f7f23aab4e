"""What a feature brings to the service."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter

from app.web.tools import ToolServer


@dataclass(frozen=True)
class Feature:
    router: APIRouter
    add_tools: Callable[[ToolServer], None]
    instructions: str
    """What an assistant should know before it calls one of the tools."""
