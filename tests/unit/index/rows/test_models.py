"""The models of all tables."""

from sqlalchemy import JSON

from node.index.rows.extension_tables import every_table


def test_none_is_null_in_each_column_of_json_that_may_be_null() -> None:
    columns = [column for table in every_table().values() for column in table.columns if isinstance(column.type, JSON)]
    assert columns
    assert [str(column) for column in columns if column.nullable and not column.type.none_as_null] == []
