"""Tasks: the example feature, yours to replace. `docs/add-a-feature.md` shows how."""
