"""How the rows of the table are written and read."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, insert, literal, select
from voxelnode.api import IndexRepository, StudyRow, Utc, ViewRows, on_writer

from voxelnode_hello.tables import GreetingRow


class GreetingRepository(IndexRepository):
    """Greetings of studies."""

    @on_writer
    def greet(self, connection: Connection, greeting: str, now: dt.datetime) -> int:
        """Greet each study that nobody has greeted, and return how many there were."""
        greeted = select(GreetingRow.id).where(GreetingRow.study_id == StudyRow.id)
        new = select(StudyRow.id, literal(greeting), literal(now, Utc)).where(~greeted.exists())
        greet_new = insert(GreetingRow).from_select(["study_id", "greeting", "greeted_at"], new)
        return connection.execute(greet_new).rowcount


class GreetingViews(ViewRows):
    """Greetings, in the view of who reads."""

    def count(self) -> int:
        """Count the greeted studies."""
        return self._number("SELECT count(*) FROM hello_greetings")
