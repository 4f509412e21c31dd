#!/usr/bin/env bash
# Installs the chart into the cluster that kubectl points at, asks it, upgrades it, removes it.
# Needs helm, kubectl, and an image that the cluster can pull.
# Usage: cluster-test.sh IMAGE_REPOSITORY TAG [further helm options]
set -euo pipefail
repository=${1:?image repository} tag=${2:?image tag}
shift 2
chart="$(dirname "$0")/../helm/errata"
namespace="errata-test-$RANDOM"
common=(--namespace "$namespace" --values "$chart/ci/small-values.yaml"
    --set "image.repository=$repository" --set "image.tag=$tag" "$@")

finish() {
    kubectl -n "$namespace" get pods,pvc,events --sort-by=.lastTimestamp 2>/dev/null | tail -40 || true
    kubectl delete namespace "$namespace" --wait=false
}
trap finish EXIT

kubectl create namespace "$namespace"
# Server side: the API server's own validation, defaulting and admission.
helm install shop "$chart" "${common[@]}" --dry-run=server >/dev/null
helm install shop "$chart" "${common[@]}"
kubectl -n "$namespace" rollout status statefulset/shop-errata-redis --timeout 5m
# Without a model a pod is alive and not ready: what is waited for is that it runs.
kubectl -n "$namespace" wait pod --for jsonpath='{.status.phase}'=Running --timeout 5m \
    --selector app.kubernetes.io/component=serve
# Past the Service, which sends nobody to a pod that is not ready.
kubectl -n "$namespace" exec deploy/shop-errata-serve -- \
    python -c "$(cat "$chart/files/answers.py")" http://127.0.0.1:8000
helm upgrade shop "$chart" "${common[@]}" --set serve.alias=challenger
echo "installed, asked, upgraded"
