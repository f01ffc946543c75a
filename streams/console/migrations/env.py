"""Alembic runs this file to apply or to write versions."""

from alembic import context

from safeguard_streams.console.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    user_module_prefix="schema.",
    compare_type=True,
    compare_server_default=True,
    include_name=lambda name, kind, _: kind != "table" or not (name or "").startswith("items_words"),
    include_object=lambda _object, name, kind, *_: kind != "index" or name != "ix_items_words",
)
context.run_migrations()
