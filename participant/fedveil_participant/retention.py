"""What an organisation's home keeps, and for how long: said once, for the record of processing and docs/audit.md."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """One place of the home (or one table of its journal), what is in it, and when it goes."""

    where: str
    what: str
    until: str


RETENTION = (
    Kept("inputs/", "protected inputs and answers of the open attempt, as they leave", "the attempt is over"),
    Kept("updates/", "updates that were made for a round, sealed", "the round is revealed, or no attempt is open"),
    Kept("snapshots/", "accepted data: the columns of a plan, masked if it has rules, sealed", "the run has ended"),
    Kept("models/", "final models of runs, as the coordinator signed them", "the organisation deletes them"),
    Kept("statistics/", "answers of statistics runs", "the organisation deletes them"),
    Kept("trainers/", "what own training code printed, for this operator alone", "two files of 8 MiB, the oldest goes"),
    Kept("journal.db: stage", "keys and secrets of the open attempt, sealed", "the stage after; the attempt is over"),
    Kept("journal.db: tag_keys", "checksum keys of sums that are not checked yet, sealed", "the sum is checked"),
    Kept("journal.db: datasets, sources", "registered data sets: paths, digests, a query", "replaced or forgotten"),
    Kept("journal.db: plans, accepted", "accepted plans", "for good"),
    Kept("journal.db: excluded", "persons who objected, by keyed digest", "they are taken in again"),
    Kept("journal.db: offers, approvals, approvers, denials, admissions", "plans that wait, who decided", "for good"),
    Kept("journal.db: sketches", "of versions, by which few changed rows are told", "for good: see below"),
    Kept("journal.db: spent, opened, high_water", "what was asked of which version, by digest", "for good: see below"),
    Kept("journal.db: ledger, lifetimes", "epsilon spent, and limits on it", "for good: see below"),
    Kept("journal.db: trail", "what happened here, without a value of the data", "for good: see below"),
    Kept("journal.db: outbox, receipts", "kind, size and digest of what left; receipts", "for good: see below"),
    Kept("journal.db: checkpoints", "signed heads of the records", "for good: see below"),
    Kept("journal.db: secrets", "protocol key and key of the version labels, sealed", "the home is removed"),
)

WHY_FOR_GOOD = (
    "What is kept for good protects the people in the data: without the spent keys and the ledger the same rows could "
    "be asked again and again, and without trail, outbox and receipts nobody could show what left."
)
