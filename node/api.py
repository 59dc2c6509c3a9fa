"""The page of names for packages that add to the node (docs/extensions.md).

A package imports from here alone: what stands elsewhere may move with any version, a name of this page only with a line
in CHANGELOG.md. A module is loaded when one of its names is used, so that the module of an `Extension` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.association.added import Find as Find
    from node.association.added import FoundAnswers as FoundAnswers
    from node.association.added import Listening as Listening
    from node.association.added import Operate as Operate
    from node.association.added import Parts as Parts
    from node.association.added import Running as Running
    from node.audit.audit_log import Audit as Audit
    from node.audit.audit_log import AuditEvent as AuditEvent
    from node.audit.audit_log import AuditMessage as AuditMessage
    from node.background import BackgroundService as BackgroundService
    from node.cli.options import ChangedRoot as ChangedRoot
    from node.cli.options import Configured as Configured
    from node.cli.options import Json as Json
    from node.cli.options import Root as Root
    from node.cli.output import Answer as Answer
    from node.cli.output import Columns as Columns
    from node.cli.output import Listing as Listing
    from node.completeness import Evidence as Evidence
    from node.conversion.objects import FileSource as FileSource
    from node.conversion.objects import Objects as Objects
    from node.conversion.objects import Output as Output
    from node.conversion.objects import WrittenObjects as WrittenObjects
    from node.errors import ConversionRefused as ConversionRefused
    from node.errors import NotUnderstood as NotUnderstood
    from node.errors import OutOfResources as OutOfResources
    from node.errors import UsageError as UsageError
    from node.errors import VoxelnodeError as VoxelnodeError
    from node.hookspecs import Action as Action
    from node.hookspecs import Command as Command
    from node.hookspecs import Extension as Extension
    from node.hookspecs import Kind as Kind
    from node.hookspecs import MenuEntry as MenuEntry
    from node.hookspecs import ObjectKind as ObjectKind
    from node.hookspecs import Router as Router
    from node.hookspecs import Service as Service
    from node.hookspecs import Statement as Statement
    from node.hookspecs import Table as Table
    from node.index.database.index import Index as Index
    from node.index.database.reading import ReadIndex as ReadIndex
    from node.index.engine.extension_tables import IndexTables as IndexTables
    from node.index.engine.rows import ReadRepository as ReadRepository
    from node.index.engine.writer import IndexRepository as IndexRepository
    from node.index.engine.writer import on_reader as on_reader
    from node.index.engine.writer import on_writer as on_writer
    from node.index.models.levels import NAMES as NAMES
    from node.index.models.levels import ImageRow as ImageRow
    from node.index.models.levels import PatientRow as PatientRow
    from node.index.models.levels import SeriesRow as SeriesRow
    from node.index.models.levels import StudyRow as StudyRow
    from node.index.models.levels import Utc as Utc
    from node.index.nouns.converted import SeriesKey as SeriesKey
    from node.index.work.routes import DueInstance as DueInstance
    from node.index.work.routes import OwedInstance as OwedInstance
    from node.notify.channel import Channel as Channel
    from node.notify.channel import DeliveredMessage as DeliveredMessage
    from node.notify.channel import NotDelivered as NotDelivered
    from node.notify.channel import OpenChannel as OpenChannel
    from node.notify.message import HookMessage as HookMessage
    from node.receive.ingest import Ingest as Ingest
    from node.routing.destination import Confirmation as Confirmation
    from node.routing.destination import Delivered as Delivered
    from node.routing.destination import NotConfirmable as NotConfirmable
    from node.routing.destination import NotTaken as NotTaken
    from node.routing.destination import Prepared as Prepared
    from node.routing.destination import Unreachable as Unreachable
    from node.routing.held import HeldWorker as HeldWorker
    from node.routing.held import RouteParts as RouteParts
    from node.routing.kinds import DestinationKind as DestinationKind
    from node.routing.kinds import OpenReceiver as OpenReceiver
    from node.settings.hooks import HookSettings as HookSettings
    from node.settings.model import Settings as Settings
    from node.settings.routes import DestinationSettings as DestinationSettings
    from node.settings.routes import Route as Route
    from node.settings.section import AETitle as AETitle
    from node.settings.section import Host as Host
    from node.settings.section import Seconds as Seconds
    from node.settings.section import SettingsSection as SettingsSection
    from node.volume.model import Geometry as Geometry
    from node.volume.model import Volume as Volume
    from node.volume.reasons import Exclusion as Exclusion
    from node.volume.reasons import Reason as Reason
    from node.volume.reasons import Refusal as Refusal
    from node.web.access import ADMINS as ADMINS
    from node.web.access import ANYBODY as ANYBODY
    from node.web.access import MEMBERS as MEMBERS
    from node.web.access import READERS as READERS
    from node.web.access import WRITERS as WRITERS
    from node.web.access import Call as Call
    from node.web.access import CurrentCall as CurrentCall
    from node.web.access import allow as allow
    from node.web.api.models import Resource as Resource
    from node.web.api.routing import api_router as api_router
    from node.web.errors import Forbidden as Forbidden
    from node.web.errors import ResourceNotFound as ResourceNotFound
    from node.web.services import Node as Node

PLACES = {
    # What an extension declares
    "node.hookspecs": "Action Command Extension Kind MenuEntry ObjectKind Router Service Statement Table",
    # What runs in a node that receives
    "node.association.added": "Find FoundAnswers Listening Operate Parts Running",
    "node.background": "BackgroundService",
    "node.receive.ingest": "Ingest",
    # Sections of the configuration
    "node.settings.hooks": "HookSettings",
    "node.settings.model": "Settings",
    "node.settings.routes": "DestinationSettings Route",
    "node.settings.section": "AETitle Host Seconds SettingsSection",
    # Commands
    "node.cli.options": "ChangedRoot Configured Json Root",
    "node.cli.output": "Answer Columns Listing",
    # REST and pages
    "node.web.access": "ADMINS ANYBODY MEMBERS READERS WRITERS Call CurrentCall allow",
    "node.web.api.models": "Resource",
    "node.web.api.routing": "api_router",
    "node.web.errors": "Forbidden ResourceNotFound",
    "node.web.services": "Node",
    # Destinations of routes
    "node.index.work.routes": "DueInstance OwedInstance",
    "node.routing.destination": "Confirmation Delivered NotConfirmable NotTaken Prepared Unreachable",
    "node.routing.held": "HeldWorker RouteParts",
    "node.routing.kinds": "DestinationKind OpenReceiver",
    # Receivers of messages
    "node.notify.channel": "Channel DeliveredMessage NotDelivered OpenChannel",
    "node.notify.message": "HookMessage",
    # Instances without pixels
    "node.completeness": "Evidence",
    "node.conversion.objects": "FileSource Objects Output WrittenObjects",
    "node.volume.model": "Geometry Volume",
    "node.volume.reasons": "Exclusion Reason Refusal",
    # The index, and rows of an extension in it
    "node.index.database.index": "Index",
    "node.index.database.reading": "ReadIndex",
    "node.index.engine.writer": "IndexRepository on_reader on_writer",
    "node.index.engine.extension_tables": "IndexTables",
    "node.index.engine.rows": "ReadRepository",
    "node.index.models.levels": "NAMES ImageRow PatientRow SeriesRow StudyRow Utc",
    "node.index.nouns.converted": "SeriesKey",
    # Errors and the audit log
    "node.audit.audit_log": "Audit AuditEvent AuditMessage",
    "node.errors": "ConversionRefused NotUnderstood OutOfResources UsageError VoxelnodeError",
}
"""The names of this page, by the modules that they stand in."""

_MODULES = {name: module for module, names in PLACES.items() for name in names.split()}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Return a name of this page (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"node.api has no name {name!r}: docs/extensions.md lists what packages may use")
    return getattr(import_module(_MODULES[name]), name)
