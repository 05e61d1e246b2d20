"""The run directory: artefacts that appear whole, ledgers that lose nothing, seals, one driver at a time."""

from erpo_ray.rundir.failpoints import failpoint
from erpo_ray.rundir.files import Files
from erpo_ray.rundir.lease import Lease
from erpo_ray.rundir.ledger import Ledger
from erpo_ray.rundir.lines import read_rows
from erpo_ray.rundir.reader import Reader
from erpo_ray.rundir.run import RunDir
from erpo_ray.rundir.stage import StageDir

__all__ = ["Files", "Lease", "Ledger", "Reader", "RunDir", "StageDir", "failpoint", "read_rows"]
