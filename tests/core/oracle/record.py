"""Records what PyTorch makes of the points, for those who have no PyTorch, and how far off the graphs are.

python tests/core/oracle/record.py        writes record.npz beside it; needs the extra `oracle`
"""

import numpy as np
import points
import reference


def made() -> dict[str, np.ndarray]:
    record: dict[str, np.ndarray] = {}
    for name, objective in points.pairs():
        found = reference.gradients(name, objective)
        record |= {points.key("gradient", objective, name, parameter): value for parameter, value in found.items()}
        off = points.worst_error(points.graph_gradients(name, objective), found)
        errors = np.array([points.finite_error(name, objective), off])
        record[points.key("errors", objective, name)] = errors
    for scenario in points.SCENARIOS:
        found = reference.steps(scenario)
        record |= {points.key("steps", scenario, parameter): value for parameter, value in found.items()}
        record[points.key("errors", "steps", scenario)] = np.array(
            points.worst_error(points.graph_steps(scenario), found)
        )
    return record


if __name__ == "__main__":
    points.save(made())
