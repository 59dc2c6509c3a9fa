"""The commands of the core, each with its place and its examples, in the order of the help.

A command of an extension is a `Command` as well (`node.hookspecs`).
"""

from node.hookspecs import Command, Panel

OF_PROGRAM = ("voxelnode demo", "voxelnode convert scans -o volumes", "voxelnode init && voxelnode serve")
"""Examples of the program as a whole."""


def _command(name: str, panel: Panel, place: str, *examples: str) -> Command:
    """Return a command of the core; `examples`: what follows its name on a command line."""
    return Command(name, panel, f"node.cli.{place}", tuple(f"voxelnode {name} {one}".rstrip() for one in examples))


COMMANDS = (
    _command("init", "Run", "run.config:init", "", "site"),
    _command("serve", "Run", "run.serve:serve", "", "--config site/voxelnode.toml"),
    _command("reload", "Run", "run.config:reload", ""),
    _command("doctor", "Run", "run.doctor:doctor", "", "--json"),
    _command("config", "Run", "run.config:app", "show", "check", "example > voxelnode.toml"),
    _command(
        "convert",
        "Convert",
        "convert.convert:convert",
        "scans -o volumes",
        "scans -o volumes --list",
        "scan.zip -o volumes --flat -f '%p_%s' --format nifti,nrrd",
        "scans -o volumes --name '{patient_id}_{series_number:03}'",
    ),
    _command("import", "Convert", "convert.import_:import_", "scans", "scan.zip --dry-run"),
    _command(
        "reconvert",
        "Convert",
        "convert.import_:reconvert",
        "--failed",
        '--where \'modality == "MR" and verdict == "incomplete"\' --dry-run',
    ),
    _command(
        "peers",
        "Exchange",
        "exchange.tables:peers",
        "echo PACS@pacs.example:104",
        "send 1.2.840.1 --to PACS",
        "set CT1 ae_title=CT1 networks=10.1.2.0/24 may=echo,store,commit",
    ),
    _command("hooks", "Exchange", "exchange.tables:hooks", "list", "test mail", "deliveries --state given-up"),
    _command("routes", "Exchange", "exchange.tables:routes", "list", "waiting", "pause research/PACS"),
    _command("status", "Look", "look.status:status", "", "--json"),
    _command("series", "Look", "look.series:series", "", "--state waiting", "--modality CT --since 2026-01-31"),
    _command(
        "select", "Look", "look.series:select", "'modality == \"CT\" and slices >= 50'", "'modality == \"CT\"' --why"
    ),
    _command("info", "Look", "look.info:info", "doe", "1.2.840.1"),
    _command("dump", "Look", "look.dump:dump", "scans/1.dcm", "1.2.840.1.1 --json"),
    _command("rejections", "Look", "look.audit:rejections", ""),
    _command("conflicts", "Look", "maintain.custody:conflicts_app", ""),
    _command("audit", "Look", "look.audit:audit", "", "--verify"),
    _command("help", "Look", "look.help:help_", "", "select"),
    _command("fsck", "Maintain", "maintain.db:fsck", "", "--hash"),
    _command("db", "Maintain", "maintain.db:db_app", "path", "export shared --group users"),
    _command("journal", "Maintain", "maintain.db:journal_app", "status"),
    _command("quarantine", "Maintain", "maintain.custody:quarantine_app", "list"),
    _command(
        "lost",
        "Maintain",
        "maintain.custody:lost_app",
        "list",
        'write-off 1.2.840.1 --reason "the scanner no longer has it"',
    ),
    _command("delete", "Maintain", "maintain.deletion:delete", "1.2.840.1 --dry-run"),
    _command("retention", "Maintain", "maintain.deletion:retention_app", "", "confirm"),
    _command("trash", "Maintain", "maintain.deletion:trash_app", "", "restore 12"),
)


def epilog(examples: tuple[str, ...]) -> str:
    """Return examples as the end of a help; ``\\b`` keeps the help from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
