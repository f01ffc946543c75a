"""What all requests of one console share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cached_property

from jinja2 import Environment
from sqlalchemy import Engine

from safeguard_streams.console.web import auth, rendering
from safeguard_streams.console.web.checking import Checker
from safeguard_streams.console.web.guard import Page
from safeguard_streams.console.web.policy_files import Classifiers
from safeguard_streams.console.web.replay_steps import STEPS
from safeguard_streams.console.web.replay_work import Workers
from safeguard_streams.console.web.roles import GRANTED, Permission, Person
from safeguard_streams.console.web.security import Rates
from safeguard_streams.runtime.settings import ConsoleRole, Settings

REQUESTS_A_MINUTE = 600  # of one person: more than anybody clicks
ENTRANCES_A_MINUTE = 600  # of one address before anybody signed in, which may be a proxy's for all


class Console:
    """Settings, database, way to sign in and pages of one process."""

    def __init__(self, settings: Settings, engine: Engine, pages: Mapping[str, Page]) -> None:
        self.settings = settings
        self.engine = engine
        self.sign_in = auth.chosen(settings)
        self.rates = Rates(REQUESTS_A_MINUTE)
        self.entrance_rates = Rates(ENTRANCES_A_MINUTE)
        self.replay_workers = Workers(settings, engine, STEPS)
        self.changing = asyncio.Lock()  # one policy at a time; other processes are fenced as they write
        self.checker = Checker()
        self.classifiers = Classifiers(settings)
        self._pages = pages

    @cached_property
    def templates(self) -> Environment:
        return rendering.environment()

    @property
    def local(self) -> bool:
        """Whether nobody signs in, and this machine alone is served."""
        return isinstance(self.sign_in, auth.LocalUser)

    def allows(self, person: Person, name: str) -> bool:
        """Whether a person may see a page or send a form, by the name of its route."""
        permission = self._pages[name].permission
        return permission is None or person.may(permission)

    @staticmethod
    def roles_for(permission: Permission) -> frozenset[ConsoleRole]:
        """The roles that have a permission."""
        return GRANTED[permission]
