"""The commands of the core, each with its place and its examples, in the order of the help.

A command of an extension is a `Command` as well (`node.hookspecs`).
"""

from node.hookspecs import Command

OF_PROGRAM = ("voxelnode demo", "voxelnode convert scans -o volumes", "voxelnode init && voxelnode serve")
"""Examples of the program as a whole."""

COMMANDS = (
    Command("init", "Run", "node.cli.run.config:init", ("voxelnode init", "voxelnode init site")),
    Command(
        "serve", "Run", "node.cli.run.serve:serve", ("voxelnode serve", "voxelnode serve --config site/voxelnode.toml")
    ),
    Command("reload", "Run", "node.cli.run.config:reload", ("voxelnode reload",)),
    Command("doctor", "Run", "node.cli.run.doctor:doctor", ("voxelnode doctor", "voxelnode doctor --json")),
    Command(
        "config",
        "Run",
        "node.cli.run.config:app",
        ("voxelnode config show", "voxelnode config check", "voxelnode config example > voxelnode.toml"),
    ),
    Command(
        "convert",
        "Convert",
        "node.cli.convert.convert:convert",
        (
            "voxelnode convert scans -o volumes",
            "voxelnode convert scans -o volumes --list",
            "voxelnode convert scan.zip -o volumes --flat -f '%p_%s' --format nifti,nrrd",
            "voxelnode convert scans -o volumes --name '{patient_id}_{series_number:03}'",
        ),
    ),
    Command(
        "import",
        "Convert",
        "node.cli.convert.import_:import_",
        ("voxelnode import scans", "voxelnode import scan.zip --dry-run"),
    ),
    Command(
        "reconvert",
        "Convert",
        "node.cli.convert.import_:reconvert",
        (
            "voxelnode reconvert --failed",
            'voxelnode reconvert --where \'modality == "MR" and verdict == "incomplete"\' --dry-run',
        ),
    ),
    Command(
        "peers",
        "Exchange",
        "node.cli.exchange.tables:peers",
        (
            "voxelnode peers echo PACS@pacs.example:104",
            "voxelnode peers send 1.2.840.1 --to PACS",
            "voxelnode peers set CT1 ae_title=CT1 networks=10.1.2.0/24 may=echo,store,commit",
        ),
    ),
    Command(
        "hooks",
        "Exchange",
        "node.cli.exchange.tables:hooks",
        ("voxelnode hooks list", "voxelnode hooks test mail", "voxelnode hooks deliveries --state given-up"),
    ),
    Command(
        "routes",
        "Exchange",
        "node.cli.exchange.tables:routes",
        ("voxelnode routes list", "voxelnode routes waiting", "voxelnode routes pause research/PACS"),
    ),
    Command("status", "Look", "node.cli.look.status:status", ("voxelnode status", "voxelnode status --json")),
    Command(
        "series",
        "Look",
        "node.cli.look.series:series",
        ("voxelnode series", "voxelnode series --state waiting", "voxelnode series --modality CT --since 2026-01-31"),
    ),
    Command(
        "select",
        "Look",
        "node.cli.look.series:select",
        ("voxelnode select 'modality == \"CT\" and slices >= 50'", "voxelnode select 'modality == \"CT\"' --why"),
    ),
    Command("info", "Look", "node.cli.look.info:info", ("voxelnode info doe", "voxelnode info 1.2.840.1")),
    Command(
        "dump", "Look", "node.cli.look.dump:dump", ("voxelnode dump scans/1.dcm", "voxelnode dump 1.2.840.1.1 --json")
    ),
    Command("rejections", "Look", "node.cli.look.audit:rejections", ("voxelnode rejections",)),
    Command("conflicts", "Look", "node.cli.maintain.custody:conflicts_app", ("voxelnode conflicts",)),
    Command("audit", "Look", "node.cli.look.audit:audit", ("voxelnode audit", "voxelnode audit --verify")),
    Command("help", "Look", "node.cli.look.help:help_", ("voxelnode help", "voxelnode help select")),
    Command("fsck", "Maintain", "node.cli.maintain.db:fsck", ("voxelnode fsck", "voxelnode fsck --hash")),
    Command(
        "db",
        "Maintain",
        "node.cli.maintain.db:db_app",
        ("voxelnode db path", "voxelnode db backup index-copy.sqlite", "voxelnode db export shared --group users"),
    ),
    Command("journal", "Maintain", "node.cli.maintain.db:journal_app", ("voxelnode journal status",)),
    Command("quarantine", "Maintain", "node.cli.maintain.custody:quarantine_app", ("voxelnode quarantine list",)),
    Command(
        "lost",
        "Maintain",
        "node.cli.maintain.custody:lost_app",
        ("voxelnode lost list", 'voxelnode lost write-off 1.2.840.1 --reason "the scanner no longer has it"'),
    ),
    Command("delete", "Maintain", "node.cli.maintain.deletion:delete", ("voxelnode delete 1.2.840.1 --dry-run",)),
    Command(
        "retention",
        "Maintain",
        "node.cli.maintain.deletion:retention_app",
        ("voxelnode retention", "voxelnode retention confirm"),
    ),
    Command(
        "trash", "Maintain", "node.cli.maintain.deletion:trash_app", ("voxelnode trash", "voxelnode trash restore 12")
    ),
    Command(
        "account", "Maintain", "node.cli.maintain.account:app", ("voxelnode account add doe", "voxelnode account list")
    ),
)


def epilog(examples: tuple[str, ...]) -> str:
    """Return examples as the end of a help; ``\\b`` keeps the help from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
