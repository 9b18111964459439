#!/bin/sh
# Compiles every .cu file for real GPUs and compares its kernels (names, number and size of the
# parameters) with the tables of the images for the simulated GPU, which the programs load in the same
# way. Uses nvcc where it is, else NVIDIA's compiler from pip, kept in build/cuda.
# Exit status: 0 all well, 1 something differs or does not compile, 77 there is no compiler.
#
# Usage: tools/check-cuda.sh [BUILD_DIRECTORY]
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
home=$build/cuda
out=$home/out
archs="sm_75 sm_80 sm_90" # CUDA 13 no longer compiles for Volta (sm_70)
packages="nvidia-cuda-nvcc==13.* nvidia-cuda-runtime==13.* nvidia-cuda-crt==13.*
          nvidia-cuda-cccl==13.* nvidia-nvvm==13.*"

find_nvcc()
{
    if command -v nvcc > /dev/null; then
        command -v nvcc
        return
    fi
    if [ ! -e "$home/complete" ]; then
        mkdir -p "$home"
        # In an environment of its own: a system Python may forbid pip to install.
        # shellcheck disable=SC2086 # the packages are words
        if ! { python3 -m venv "$home/venv" &&
               "$home/venv/bin/pip" install --quiet --disable-pip-version-check \
                   --target "$home/site" $packages; } > "$home/install.log" 2>&1; then
            return
        fi
        chmod +x "$home"/site/nvidia/cu13/bin/* "$home"/site/nvidia/cu13/nvvm/bin/*
        touch "$home/complete"
    fi
    echo "$home/site/nvidia/cu13/bin/nvcc"
}

# "name bytes bytes ..." of every kernel in PTX, sorted.
ptx_kernels()
{
    awk '
        /\.entry/ { line = $0; sub(/.*\.entry +/, "", line); sub(/\(.*/, "", line); row = line; open = 1 }
        open && /\.param/ {
            bytes = /\.(u|s|b|f)64/ ? 8 : /\.(u|s|b|f)32/ ? 4 : /\.(u|s|b|f)16/ ? 2 : 1
            row = row " " bytes
        }
        open && /\)/ { print row; open = 0 }
    ' "$1" | sort
}

# The same out of a sim_module.c: the lines {"name", COUNT, ARRAY, ...} and the arrays they name.
table_kernels()
{
    python3 - "$1" <<'PY'
import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
arrays = {name: re.findall(r"\d+", values)
          for name, values in re.findall(r"(\w+)\[\] = \{([\d, ]+)\}", text)}
rows = re.findall(r'\{"(\w+)", (\d+), (\w+),', text)
for name, count, array in sorted(rows):
    assert len(arrays[array]) == int(count), f"{name}: {array} does not have {count} sizes"
    print(name, *arrays[array])
PY
}

nvcc=$(find_nvcc)
if [ -z "$nvcc" ]; then
    echo "check-cuda: no nvcc, and pip could not install one (see $home/install.log): skipped"
    exit 77
fi
mkdir -p "$out"
"$nvcc" --version | tail -2 | head -1
for source in $(find functions -name '*.cu' | sort); do
    folder=$(dirname "$source")
    stem=$out/$(basename "$folder")-$(basename "$source" .cu)
    for arch in $archs; do
        "$nvcc" -cubin -arch="$arch" -fmad=false -Werror all-warnings "$source" -o "$stem.$arch.cubin"
    done
    "$nvcc" -ptx -arch=compute_75 -fmad=false "$source" -o "$stem.ptx"
    ptx_kernels "$stem.ptx" > "$stem.ptx.kernels"
    table_kernels "$folder/sim_module.c" > "$stem.table.kernels"
    if ! [ -s "$stem.ptx.kernels" ] || ! diff "$stem.ptx.kernels" "$stem.table.kernels"; then
        echo "check-cuda: the kernels of $source (<) differ from the table in $folder/sim_module.c (>)"
        exit 1
    fi
    while read -r kernel _; do
        if ! grep -qs "\"$kernel\"" "$folder"/gpu.c "$folder"/replay.c; then
            echo "check-cuda: no program loads $kernel of $source"
            exit 1
        fi
    done < "$stem.ptx.kernels"
    echo "ok $source: $(wc -l < "$stem.ptx.kernels") kernels for $archs"
done
# The images of the GPU kit, for GPUs that CUDA 13 no longer knows too; 77: their compiler is not to be had.
python3 tools/fatbins.py "$out/kit" "$home" || [ $? = 77 ]
