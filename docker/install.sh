#!/usr/bin/env bash
# Make a virtual environment that holds what some parts of the product need and nothing else, at the versions of requirements.lock.
#
#   docker/install.sh [--dry-run] [--torch cpu] ENVIRONMENT PART...
#
#   PART         `project` (what every room needs) or an extra of pyproject.toml
#   --torch cpu  PyTorch without CUDA, from PyTorch's own index: the same versions in a tenth of the space
#   --dry-run    make nothing, print what would be installed
#
# Needs uv and Python 3.11. Every environment in the Dockerfile is made by this script, and so is each that `make test-images` tries.
set -euo pipefail

torch=cuda dry_run=
while [[ "${1:-}" == --* ]]; do
    case "$1" in
        --dry-run) dry_run=yes ;;
        --torch) torch=$2 && shift ;;
        *) echo "error: unknown option $1; the head of $0 lists them" >&2 && exit 2 ;;
    esac
    shift
done
case "$torch" in
    cuda) build=() ;; # the build that the lock was resolved with
    cpu) build=(--torch-backend cpu) ;;
    *) echo "error: --torch $torch: cpu or cuda" >&2 && exit 2 ;;
esac
[[ $# -ge 2 ]] || { echo "error: an environment and at least one part; the head of $0 says which" >&2 && exit 2; }
environment=$(realpath --canonicalize-missing "$1") && shift

cd "$(dirname "$0")/.."
wanted=$(
    python3 - "$@" <<'PYTHON'
import sys, tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
parts = project["optional-dependencies"] | {"project": project["dependencies"]}
if unknown := set(sys.argv[1:]) - set(parts):
    sys.exit(f"error: no part {', '.join(sorted(unknown))}; there are {', '.join(sorted(parts))}")
print("\n".join(requirement for part in sys.argv[1:] for requirement in parts[part]))
PYTHON
)
chosen=$(
    uv pip compile --quiet --no-header --no-annotate --python-version 3.11 "${build[@]}" --constraints requirements.lock - <<<"$wanted"
)
# What the lock does not hold would be whatever is newest on the day of the build.
if strange=$(grep --invert-match --line-regexp --fixed-strings --file requirements.lock <<<"${chosen//+cpu/}"); then
    echo "error: not in requirements.lock, run \`make lock\`: ${strange//$'\n'/, }" >&2
    exit 1
fi
if [[ -n "$dry_run" ]]; then
    echo "$chosen"
    exit
fi
uv venv --quiet --no-python-downloads --python 3.11 "$environment"
uv pip install --quiet --python "$environment/bin/python" --no-deps "${build[@]}" --requirements - <<<"$chosen"
uv pip check --quiet --python "$environment/bin/python"
echo "$environment: $(wc --lines <<<"$chosen") packages"
