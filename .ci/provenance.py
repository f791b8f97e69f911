#!/usr/bin/env python3
"""The predicate of SLSA's provenance v1 for a run of .github/workflows/release.yml, from its environment."""

import json
import os

get = os.environ.__getitem__
repository = f"{get('GITHUB_SERVER_URL')}/{get('GITHUB_REPOSITORY')}"
workflow = {"ref": get("GITHUB_REF"), "repository": repository, "path": ".github/workflows/release.yml"}
source = {"uri": f"git+{repository}@{get('GITHUB_REF')}", "digest": {"gitCommit": get("GITHUB_SHA")}}
run = f"{repository}/actions/runs/{get('GITHUB_RUN_ID')}/attempts/{get('GITHUB_RUN_ATTEMPT')}"
predicate = {
    "buildDefinition": {
        "buildType": "https://actions.github.io/buildtypes/workflow/v1",
        "externalParameters": {"workflow": workflow},
        "resolvedDependencies": [source],
    },
    "runDetails": {
        "builder": {"id": f"{repository}/.github/workflows/release.yml@{get('GITHUB_REF')}"},
        "metadata": {"invocationId": run},
    },
}
print(json.dumps(predicate, indent=1))
