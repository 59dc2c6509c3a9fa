"""The page of names for packages that add to the node (docs/extensions.md).

A package imports from here alone: what stands elsewhere may move with any version, a name of this page only with a line
in CHANGELOG.md. A module is loaded when one of its names is used, so that the module of an `Extension` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.archive.base import VOLUMES as VOLUMES
    from node.archive.space import reason_of as reason_of
    from node.association.added import Find as Find
    from node.association.added import FoundAnswers as FoundAnswers
    from node.association.added import Listening as Listening
    from node.association.added import OpenedRoot as OpenedRoot
    from node.association.added import Operate as Operate
    from node.association.added import Parts as Parts
    from node.association.added import Running as Running
    from node.association.client.addresses import Address as Address
    from node.association.client.send import Outgoing as Outgoing
    from node.association.client.send import send_files as send_files
    from node.audit.audit_log import Audit as Audit
    from node.audit.audit_log import AuditAction as AuditAction
    from node.audit.audit_log import AuditCopy as AuditCopy
    from node.audit.audit_log import AuditEvent as AuditEvent
    from node.audit.audit_log import AuditMessage as AuditMessage
    from node.children.child import Child as Child
    from node.children.child import ChildDied as ChildDied
    from node.children.messages import ChildCancelled as ChildCancelled
    from node.children.messages import ChildLate as ChildLate
    from node.children.serving import ChildPipes as ChildPipes
    from node.cli.exchange.hook_tests import shipped_with_pydicom as shipped_with_pydicom
    from node.cli.options import ChangedRoot as ChangedRoot
    from node.cli.options import Commands as Commands
    from node.cli.options import Configured as Configured
    from node.cli.options import Json as Json
    from node.cli.options import Root as Root
    from node.cli.options import SeriesUids as SeriesUids
    from node.cli.options import StudyUids as StudyUids
    from node.cli.options import studies_or_series as studies_or_series
    from node.cli.output import Answer as Answer
    from node.cli.output import Columns as Columns
    from node.cli.output import Listing as Listing
    from node.cli.output import listing as listing
    from node.cli.output import print_fields as print_fields
    from node.cli.output import print_table as print_table
    from node.cli.output import printable as printable
    from node.cli.output import progress_bar as progress_bar
    from node.cli.run.serve import Sitting as Sitting
    from node.cli.run.serve import browse as browse
    from node.cli.run.serve import remove_left as remove_left
    from node.cli.run.serve import sitting as sitting
    from node.cli.run.serve import stop_at_end as stop_at_end
    from node.cli.run.serve import temporary_root as temporary_root
    from node.completeness import Evidence as Evidence
    from node.conversion.datasets import FileSource as FileSource
    from node.conversion.datasets import Objects as Objects
    from node.conversion.datasets import Output as Output
    from node.conversion.datasets import SeriesFiles as SeriesFiles
    from node.conversion.datasets import WrittenObjects as WrittenObjects
    from node.conversion.job import ReferencedSeries as ReferencedSeries
    from node.conversion.job import converted_file as converted_file
    from node.conversion.naming import NameTemplate as NameTemplate
    from node.conversion.naming import TakenNames as TakenNames
    from node.conversion.naming import ending_of as ending_of
    from node.conversion.naming import is_file_of as is_file_of
    from node.conversion.naming import node_template as node_template
    from node.conversion.naming import numbered as numbered
    from node.conversion.naming import renamed_header as renamed_header
    from node.dicom.attributes import is_identifier as is_identifier
    from node.dicom.status import StatementTable as StatementTable
    from node.dicom.status import parameters as parameters
    from node.dicom.uids import resource_path as resource_path
    from node.dicom.values import items as items
    from node.dicom.values import number as number
    from node.dicom.values import numbers as numbers
    from node.dicom.values import text as text
    from node.dicom.values import value as value
    from node.dicom.values import whole as whole
    from node.errors import ConversionRefused as ConversionRefused
    from node.errors import NotUnderstood as NotUnderstood
    from node.errors import OutOfResources as OutOfResources
    from node.errors import UsageError as UsageError
    from node.errors import VoxelnodeError as VoxelnodeError
    from node.errors import counted as counted
    from node.errors import sized as sized
    from node.errors import type_and_location as type_and_location
    from node.files.durable import make_folder as make_folder
    from node.files.durable import sync_folder as sync_folder
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
    from node.index.database import Index as Index
    from node.index.reading import ReadIndex as ReadIndex
    from node.index.reading import reading as reading
    from node.index.rows.converted import SeriesKey as SeriesKey
    from node.index.rows.extension_tables import SEEN_WITH_STUDY_OR_SERIES as SEEN_WITH_STUDY_OR_SERIES
    from node.index.rows.extension_tables import IndexTables as IndexTables
    from node.index.rows.models.levels import NAMES as NAMES
    from node.index.rows.models.levels import ImageRow as ImageRow
    from node.index.rows.models.levels import PatientRow as PatientRow
    from node.index.rows.models.levels import SeriesRow as SeriesRow
    from node.index.rows.models.levels import StudyRow as StudyRow
    from node.index.rows.models.levels import Utc as Utc
    from node.index.rows.models.work import LabelRow as LabelRow
    from node.index.rows.repositories import IndexRepository as IndexRepository
    from node.index.rows.repositories import ReadRepository as ReadRepository
    from node.index.rows.repositories import Terms as Terms
    from node.index.rows.repositories import on_reader as on_reader
    from node.index.rows.repositories import on_writer as on_writer
    from node.index.rows.scope import group_members as group_members
    from node.index.rows.sql import insert as insert
    from node.index.rows.view_rows import Row as Row
    from node.index.rows.view_rows import ViewRows as ViewRows
    from node.index.rules.custody.trash import in_trash as in_trash
    from node.index.rules.people.accounts import Role as Role
    from node.index.rules.people.person_plans import MAX_ISSUER_CHARACTERS as MAX_ISSUER_CHARACTERS
    from node.index.rules.people.person_plans import Correction as Correction
    from node.index.rules.people.person_plans import Moved as Moved
    from node.index.rules.people.persons import PersonRepository as PersonRepository
    from node.index.rules.work.ledger import NoSuchWork as NoSuchWork
    from node.index.rules.work.routes import DueInstance as DueInstance
    from node.index.rules.work.routes import OwedInstance as OwedInstance
    from node.index.work_loop import IndexFollower as IndexFollower
    from node.index.work_loop import Interrupted as Interrupted
    from node.notify.channel import HOOK_VARIABLES as HOOK_VARIABLES
    from node.notify.channel import Channel as Channel
    from node.notify.channel import DeliveredMessage as DeliveredMessage
    from node.notify.channel import NotDelivered as NotDelivered
    from node.notify.channel import OpenChannel as OpenChannel
    from node.notify.message import HookMessage as HookMessage
    from node.receive.dicom_files import count_files as count_files
    from node.receive.import_files import ImportReport as ImportReport
    from node.receive.import_files import import_instances as import_instances
    from node.receive.ingest import Ingest as Ingest
    from node.registry import lacking as lacking
    from node.routing.destination import Confirmation as Confirmation
    from node.routing.destination import Delivered as Delivered
    from node.routing.destination import NotConfirmable as NotConfirmable
    from node.routing.destination import NotTaken as NotTaken
    from node.routing.destination import Prepared as Prepared
    from node.routing.destination import Unreachable as Unreachable
    from node.routing.destination import WrittenDestination as WrittenDestination
    from node.routing.held import DestinationKind as DestinationKind
    from node.routing.held import HeldWorker as HeldWorker
    from node.routing.held import OpenReceiver as OpenReceiver
    from node.routing.held import RouteParts as RouteParts
    from node.runtime.background import BackgroundService as BackgroundService
    from node.runtime.background import seconds_of_retry_after as seconds_of_retry_after
    from node.runtime.network import OutOfReach as OutOfReach
    from node.runtime.network import Reach as Reach
    from node.runtime.network import is_loopback as is_loopback
    from node.runtime.network import plain_address as plain_address
    from node.runtime.tls import client_context as client_context
    from node.settings.core import RESULT_EVENTS as RESULT_EVENTS
    from node.settings.core import DestinationSettings as DestinationSettings
    from node.settings.core import HookEvent as HookEvent
    from node.settings.core import HookSettings as HookSettings
    from node.settings.core import Layout as Layout
    from node.settings.core import Route as Route
    from node.settings.core import Web as Web
    from node.settings.model import Settings as Settings
    from node.settings.section import AETitle as AETitle
    from node.settings.section import Host as Host
    from node.settings.section import Seconds as Seconds
    from node.settings.section import SettingsSection as SettingsSection
    from node.settings.tables import reach_of as reach_of
    from node.version import __version__ as __version__
    from node.volume.assemble import DAMAGE as DAMAGE
    from node.volume.assemble import assemble as assemble
    from node.volume.assemble import damage_detail as damage_detail
    from node.volume.derived import collapse as collapse
    from node.volume.derived import masked as masked
    from node.volume.derived import threshold as threshold
    from node.volume.describe.sidecar_fields import describe as describe
    from node.volume.describe.sidecar_fields import identifying_words as identifying_words
    from node.volume.describe.sidecar_fields import repeats as repeats
    from node.volume.model import Array as Array
    from node.volume.model import Assembly as Assembly
    from node.volume.model import Float as Float
    from node.volume.model import Geometry as Geometry
    from node.volume.model import Source as Source
    from node.volume.model import Volume as Volume
    from node.volume.model import VolumeKind as VolumeKind
    from node.volume.planes import PlaneName as PlaneName
    from node.volume.read.frames import frames_of as frames_of
    from node.volume.reasons import Exclusion as Exclusion
    from node.volume.reasons import Reason as Reason
    from node.volume.reasons import Refusal as Refusal
    from node.volume.reasons import VolumeWarning as VolumeWarning
    from node.volume.reasons import WarningKind as WarningKind
    from node.web.access import ADMINS as ADMINS
    from node.web.access import ANYBODY as ANYBODY
    from node.web.access import MEMBERS as MEMBERS
    from node.web.access import READERS as READERS
    from node.web.access import WRITERS as WRITERS
    from node.web.access import WRITING_MEMBERS as WRITING_MEMBERS
    from node.web.access import Call as Call
    from node.web.access import CurrentCall as CurrentCall
    from node.web.access import allow as allow
    from node.web.api.models import Decision as Decision
    from node.web.api.models import Moment as Moment
    from node.web.api.models import PatientResource as PatientResource
    from node.web.api.models import Resource as Resource
    from node.web.api.models import RowId as RowId
    from node.web.api.resources import StudyOrSeries as StudyOrSeries
    from node.web.api.resources import StudyUid as StudyUid
    from node.web.api.routing import OF_CHANGES as OF_CHANGES
    from node.web.api.routing import Change as Change
    from node.web.api.routing import api_router as api_router
    from node.web.api.routing import only_row as only_row
    from node.web.api.routing import problems as problems
    from node.web.api.routing import single as single
    from node.web.api.routing import tagged as tagged
    from node.web.audit_trail import of_study as of_study
    from node.web.credentials import SIGN_IN_SECONDS as SIGN_IN_SECONDS
    from node.web.credentials import FederatedIdentity as FederatedIdentity
    from node.web.errors import Forbidden as Forbidden
    from node.web.errors import ProviderUnavailable as ProviderUnavailable
    from node.web.errors import ResourceNotFound as ResourceNotFound
    from node.web.errors import SignInFailed as SignInFailed
    from node.web.pages.rendering import series_url as series_url
    from node.web.pages.rendering import study_url as study_url
    from node.web.pages.selected import SERIES as SERIES
    from node.web.pages.selected import STUDY as STUDY
    from node.web.pages.selected import Selected as Selected
    from node.web.pages.selected import Wanted as Wanted
    from node.web.services import Node as Node
    from node.web.services import Services as Services
    from node.writers.from_arrays import read_rectangles as read_rectangles
    from node.writers.from_arrays import refined as refined
    from node.writers.from_arrays import write_labelled_npz as write_labelled_npz
    from node.writers.from_arrays import write_montage as write_montage
    from node.writers.from_arrays import write_rectangles as write_rectangles
    from node.writers.from_arrays import write_slices as write_slices
    from node.writers.itk import write_voxels as write_voxels
    from node.writers.reading import read_sidecar as read_sidecar
    from node.writers.reading import read_voxels as read_voxels
    from node.writers.sidecar import write_document as write_document

PLACES = {
    # What an extension declares
    "node.registry": "lacking",
    "node.hookspecs": "Action Command Extension Kind MenuEntry ObjectKind Router Service Statement Table",
    "node.version": "__version__",
    # What runs in a node that receives
    "node.association.added": "Find FoundAnswers Listening OpenedRoot Operate Parts Running",
    "node.runtime.background": "BackgroundService seconds_of_retry_after",
    "node.index.work_loop": "IndexFollower Interrupted",
    "node.receive.import_files": "ImportReport import_instances",
    "node.receive.dicom_files": "count_files",
    "node.receive.ingest": "Ingest",
    # Sections of the configuration
    "node.settings.core": "RESULT_EVENTS DestinationSettings HookEvent HookSettings Layout Route Web",
    "node.settings.model": "Settings",
    "node.settings.section": "AETitle Host Seconds SettingsSection",
    "node.dicom.status": "StatementTable parameters",
    # Commands
    "node.cli.exchange.hook_tests": "shipped_with_pydicom",
    "node.cli.options": "ChangedRoot Commands Configured Json Root SeriesUids StudyUids studies_or_series",
    "node.cli.output": "Answer Columns Listing listing print_fields print_table printable progress_bar",
    "node.cli.run.serve": "Sitting browse remove_left sitting stop_at_end temporary_root",
    # REST and pages
    "node.web.access": "ADMINS ANYBODY MEMBERS READERS WRITERS WRITING_MEMBERS Call CurrentCall allow",
    "node.web.api.models": "Decision Moment PatientResource Resource RowId",
    "node.web.api.resources": "StudyOrSeries StudyUid",
    "node.web.api.routing": "Change OF_CHANGES api_router only_row problems single tagged",
    "node.web.audit_trail": "of_study",
    "node.web.errors": "Forbidden ProviderUnavailable ResourceNotFound SignInFailed",
    "node.web.pages.rendering": "series_url study_url",
    "node.web.pages.selected": "SERIES STUDY Selected Wanted",
    "node.web.services": "Node Services",
    # Accounts that somebody else keeps
    "node.index.rows.scope": "group_members",
    "node.index.rules.people.accounts": "Role",
    "node.web.credentials": "SIGN_IN_SECONDS FederatedIdentity",
    # Destinations of routes
    "node.association.client.addresses": "Address",
    "node.association.client.send": "Outgoing send_files",
    "node.dicom.uids": "resource_path",
    "node.index.rules.work.routes": "DueInstance OwedInstance",
    "node.routing.destination": (
        "Confirmation Delivered NotConfirmable NotTaken Prepared Unreachable WrittenDestination"
    ),
    "node.routing.held": "DestinationKind HeldWorker OpenReceiver RouteParts",
    # Receivers of messages
    "node.notify.channel": "HOOK_VARIABLES Channel DeliveredMessage NotDelivered OpenChannel",
    "node.notify.message": "HookMessage",
    # Other machines
    "node.runtime.network": "OutOfReach Reach is_loopback plain_address",
    "node.settings.tables": "reach_of",
    "node.runtime.tls": "client_context",
    # Child processes
    "node.children.child": "Child ChildDied",
    "node.children.messages": "ChildCancelled ChildLate",
    "node.children.serving": "ChildPipes",
    # Attributes of a data set
    "node.dicom.attributes": "is_identifier",
    "node.dicom.values": "items number numbers text value whole",
    "node.volume.describe.sidecar_fields": "describe identifying_words repeats",
    # Instances without pixels
    "node.completeness": "Evidence",
    "node.conversion.datasets": "FileSource Objects Output SeriesFiles WrittenObjects",
    "node.conversion.job": "ReferencedSeries converted_file",
    "node.writers.sidecar": "write_document",
    # Volumes
    "node.volume.assemble": "DAMAGE assemble damage_detail",
    "node.volume.derived": "collapse masked threshold",
    "node.volume.model": "Array Assembly Float Geometry Source Volume VolumeKind",
    "node.volume.planes": "PlaneName",
    "node.volume.read.frames": "frames_of",
    "node.volume.reasons": "Exclusion Reason Refusal VolumeWarning WarningKind",
    "node.writers.from_arrays": (
        "read_rectangles refined write_labelled_npz write_montage write_rectangles write_slices"
    ),
    "node.writers.reading": "read_sidecar read_voxels",
    "node.writers.itk": "write_voxels",
    # Files by name
    "node.archive.base": "VOLUMES",
    "node.archive.space": "reason_of",
    "node.conversion.naming": "NameTemplate TakenNames ending_of is_file_of node_template numbered renamed_header",
    "node.files.durable": "make_folder sync_folder",
    # The index, and rows of an extension in it
    "node.index.database": "Index",
    "node.index.reading": "ReadIndex reading",
    "node.index.rows.extension_tables": "SEEN_WITH_STUDY_OR_SERIES IndexTables",
    "node.index.rows.repositories": "IndexRepository ReadRepository Terms on_reader on_writer",
    "node.index.rows.view_rows": "Row ViewRows",
    "node.index.rows.sql": "insert",
    "node.index.rows.models.levels": "NAMES ImageRow PatientRow SeriesRow StudyRow Utc",
    "node.index.rows.models.work": "LabelRow",
    "node.index.rows.converted": "SeriesKey",
    "node.index.rules.people.person_plans": "Correction MAX_ISSUER_CHARACTERS Moved",
    "node.index.rules.people.persons": "PersonRepository",
    "node.index.rules.custody.trash": "in_trash",
    "node.index.rules.work.ledger": "NoSuchWork",
    # Errors and the audit log
    "node.audit.audit_log": "Audit AuditAction AuditCopy AuditEvent AuditMessage",
    "node.errors": (
        "ConversionRefused NotUnderstood OutOfResources UsageError VoxelnodeError counted sized type_and_location"
    ),
}
"""The names of this page, by the modules that they stand in."""

_MODULES = {name: module for module, names in PLACES.items() for name in names.split()}

__all__ = list(_MODULES)


if not TYPE_CHECKING:  # a checker of types would take any name for one of this page

    def __getattr__(name: str) -> Any:
        """Return a name of this page (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"node.api has no name {name!r}: docs/extensions.md lists what packages may use")
        return getattr(import_module(_MODULES[name]), name)
