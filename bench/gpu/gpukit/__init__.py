"""The parts of bench/gpu/run and bench/gpu/report. See docs/gpu-kit.md."""
