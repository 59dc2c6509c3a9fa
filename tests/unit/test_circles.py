"""No modules of the node import each other in a circle, types counted."""

from graphlib import TopologicalSorter

import pytest


def test_modules_import_each_other_in_no_circle() -> None:
    grimp = pytest.importorskip("grimp", reason="comes with import-linter")
    graph = grimp.build_graph("node", exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    list(TopologicalSorter(imports).static_order())  # raises CycleError, which names the modules of a circle
