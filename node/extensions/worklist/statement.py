"""Sections of the conformance statement."""

BASIC_WORKLIST = """\
##### SCP of the Modality Worklist Information Model

Entries are received by REST and by HL7 v2 orders, and read from files ([worklist.md](worklist.md)). Every attribute of
PS3.6 in an entry is returned if requested, in sequences to a depth of eight. Attributes of the value representations
AE, AS, CS, DA, IS, LO, LT, PN, SH, ST, TM, UC, UI and UT are matched, by the rules of the Query/Retrieve SOP classes;
others are only returned, which is indicated by status 0xFF01 if a value is requested. Dates and times are matched
separately. Extended negotiation is not supported. Responses have no value for attributes that an entry lacks.
"""

PERFORMED_STEPS = """\
##### SCP of the Modality Performed Procedure Step SOP Class

A step is durable before success is returned. N-CREATE requires the attributes of type 1 of PS3.4 table F.7.2-1 and the
status IN PROGRESS. N-SET replaces attributes as a whole; it must not change those that the table does not allow. A
final state requires the end date and time, COMPLETED also the Performed Series Sequence. A step in a final state is
never changed. The instances that an ended step lists decide whether a series is complete, and when it is converted
([lifecycle.md](lifecycle.md)). N-GET and notifications are not supported.
"""
