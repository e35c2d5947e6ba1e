"""The names of all files and folders of a storage. The README says what each of them holds.

STORAGE/
  patches/FINGERPRINT/                 quarantine.jsonl
  EXPERIMENT/                          experiment.yaml  commands.jsonl  results.csv  rungs.json  report.html
                                       lock  .ray/
    trials/TRIAL/                      trial.yaml  metrics.jsonl  log.txt  outcome.json  starts.jsonl  held.jsonl
      checkpoints/step_00004384/       manifest.json
"""

# In the storage.
PATCHES = "patches"

# In a patch store.
QUARANTINE = "quarantine.jsonl"

# In an experiment's folder.
EXPERIMENT_FILE = "experiment.yaml"
COMMANDS = "commands.jsonl"
RESULTS_CSV = "results.csv"
RESULTS_JSON = "results.json"
OVER_SEEDS = "over_seeds.csv"
RUNGS = "rungs.json"
REPORT = "report.html"
LOCK = "lock"
RAY_FOLDER = ".ray"
INITIAL_WEIGHTS = "initial_weights"  # files that generators start from, each named by its SHA-256
TRIALS = "trials"

# In a trial's folder.
TRIAL_FILE = "trial.yaml"
METRICS_LOG = "metrics.jsonl"
LOG = "log.txt"
OUTCOME = "outcome.json"
STARTS = "starts.jsonl"
HELD = "held.jsonl"
EVALUATION_CSV = "evaluation.csv"
IMAGES = "images"
WEIGHTS = "weights/generator.safetensors"
WEIGHTS_RECORD = "weights/manifest.json"
BEST_WEIGHTS = "weights/best.safetensors"
BEST_RECORD = "weights/best.json"
CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"  # in each checkpoint

TENSORBOARD_EVENTS = "events.out.tfevents.trial"  # TensorBoard finds files by the part in the middle
TENSORBOARD_NOTE = "tensorboard.json"  # what that file holds

# In an experiment's and in a trial's folder.
WANDB_FOLDER = "wandb"


def trial_path(name: str) -> str:
    """The folder of a trial, relative to its experiment's folder."""
    return f"{TRIALS}/{name}"


def image_name(epoch: int) -> str:
    """The grid of pictures at the end of an epoch, relative to its trial's folder."""
    return f"{IMAGES}/epoch_{epoch:04d}.png"
