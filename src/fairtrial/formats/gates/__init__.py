"""Gates: what is wrong with a trajectory, and the quality card of a data set."""

from fairtrial.formats.gates.card import Card
from fairtrial.formats.gates.checks import check_row
from fairtrial.formats.gates.coverage import Coverage, cover
from fairtrial.formats.gates.findings import GATES, Finding
from fairtrial.formats.gates.overlap import Evaluation
from fairtrial.formats.gates.shell import command_runs_same_code

__all__ = ["GATES", "Card", "Coverage", "Evaluation", "Finding", "check_row", "command_runs_same_code", "cover"]
