"""Of a fake torch: a profiler that has seen tests/unit/fake_trace.json."""
import os
import shutil


class ProfilerActivity:
    CUDA, CPU = "CUDA", "CPU"


class profile: # pylint: disable=invalid-name
    def __init__(self, activities):
        assert activities

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def export_chrome_trace(self, path):
        shutil.copy(os.path.join(os.path.dirname(__file__), "..", "..", "unit", "fake_trace.json"), path)
