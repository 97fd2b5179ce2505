"""The contract: unit, plan, commit, manifest, record, comm. Imports nothing above it."""
