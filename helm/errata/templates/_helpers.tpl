{{- define "errata.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of one component. Call with (list . "component"). */}}
{{- define "errata.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "errata.labels" -}}
{{ include "errata.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/part-of: errata
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end -}}

{{/* The image of the code. Call with (list . gpu). */}}
{{- define "errata.image" -}}
{{- $image := (index . 0).Values.image -}}
{{- $tag := $image.tag | default (index . 0).Chart.AppVersion -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $tag }}{{ ternary "-gpu" "" (index . 1) }}
{{- end -}}
{{- end -}}

{{- define "errata.redisSecret" -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "errata.fullname" .)) -}}
{{- end -}}

{{- define "errata.registryClaim" -}}
{{- .Values.registry.persistence.existingClaim | default (printf "%s-registry" (include "errata.fullname" .)) -}}
{{- end -}}

{{- define "errata.offlineClaim" -}}
{{- .Values.offline.persistence.existingClaim | default (printf "%s-offline" (include "errata.fullname" .)) -}}
{{- end -}}

{{/* Settings of a pod that runs the code. Only the sensor may gain a capability, and no other. */}}
{{- define "errata.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "errata.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "errata.env" -}}
- name: ERRATA_HOME
  value: /var/lib/errata
- name: HOME
  value: /tmp
# Compiled packet code is kept between the processes of a pod: the image cannot be written.
- name: NUMBA_CACHE_DIR
  value: /tmp/numba
- name: MPLCONFIGDIR
  value: /tmp/matplotlib
{{- with .Values.registry.url }}
- name: ERRATA_REGISTRY_URL
  value: {{ . | quote }}
{{- end }}
{{- if .Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "errata.redisSecret" . }}
      key: password
- name: ERRATA_REDIS_URL
  {{- if .Values.redis.tls.enabled }}
  value: rediss://:$(REDIS_PASSWORD)@{{ include "errata.fullname" . }}-redis:6379/0?ssl_ca_certs=/etc/errata/redis-tls/ca.crt
  {{- else }}
  value: redis://:$(REDIS_PASSWORD)@{{ include "errata.fullname" . }}-redis:6379/0
  {{- end }}
{{- else }}
- name: ERRATA_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "redis.external.existingSecret names the Secret with the URL of your Redis" .Values.redis.external.existingSecret }}
      key: {{ .Values.redis.external.key }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What names users, for those who are told of any. */}}
{{- define "errata.userKeyEnv" -}}
{{- if .Values.userKey.existingSecret -}}
- {name: ERRATA_USER_KEY, value: /etc/errata/users/user.key}
{{- end -}}
{{- end -}}

{{/* Mounts of a container that runs the code. Call with (list . registryReadOnly users): feedback and
     the key that names users go to those who are told of users. */}}
{{- define "errata.mounts" -}}
{{- $root := index . 0 -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /var/lib/errata}
{{- if not $root.Values.registry.url }}
- {name: registry, mountPath: /var/lib/errata/registry, readOnly: {{ index . 1 }}}
{{- end }}
{{- if index . 2 }}
- {name: offline, mountPath: /var/lib/errata/offline}
{{- if $root.Values.userKey.existingSecret }}
- {name: user-key, mountPath: /etc/errata/users, readOnly: true}
{{- end }}
{{- end }}
{{- if and $root.Values.redis.enabled $root.Values.redis.tls.enabled }}
- {name: redis-ca, mountPath: /etc/errata/redis-tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* Volumes to go with the mounts. Call with (list . users scratchSize). */}}
{{- define "errata.volumes" -}}
{{- $root := index . 0 -}}
- name: tmp
  emptyDir: {sizeLimit: {{ index . 2 }}}
- name: home
  emptyDir: {sizeLimit: {{ index . 2 }}}
{{- if not $root.Values.registry.url }}
- name: registry
  persistentVolumeClaim:
    claimName: {{ include "errata.registryClaim" $root }}
{{- end }}
{{- if index . 1 }}
- name: offline
  persistentVolumeClaim:
    claimName: {{ include "errata.offlineClaim" $root }}
{{- with $root.Values.userKey.existingSecret }}
- name: user-key
  secret:
    secretName: {{ . }}
    items: [{key: user.key, path: user.key, mode: 0440}]
{{- end }}
{{- end }}
{{- if and $root.Values.redis.enabled $root.Values.redis.tls.enabled }}
- name: redis-ca
  secret:
    secretName: {{ required "redis.tls.existingSecret names the Secret with tls.crt, tls.key and ca.crt" $root.Values.redis.tls.existingSecret }}
    # Not the server's private key.
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end -}}

{{/* Where a pod may run, with what a GPU asks for on top. */}}
{{- define "errata.placement" -}}
{{- $gpu := .gpu | default (dict "enabled" false) -}}
{{- $selector := .nodeSelector -}}
{{- $tolerations := .tolerations -}}
{{- if $gpu.enabled -}}
{{- $selector = merge (dict) .nodeSelector $gpu.nodeSelector -}}
{{- $tolerations = concat .tolerations $gpu.tolerations -}}
{{- end -}}
{{- with $selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "errata.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if and .gpu .gpu.enabled -}}
{{- $_ := set $resources.limits .gpu.resource .gpu.count -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "errata.persistence" -}}
accessModes: {{ toYaml .accessModes | nindent 2 }}
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}

{{/* Where KEDA finds Redis. Call with (list . autoscaling). */}}
{{- define "errata.kedaRedis" -}}
{{- $root := index . 0 -}}
{{- $keda := (index . 1).keda -}}
{{- if $root.Values.redis.enabled -}}
address: {{ printf "%s-redis.%s.svc:6379" (include "errata.fullname" $root) $root.Release.Namespace | quote }}
passwordFromEnv: REDIS_PASSWORD
{{- if $root.Values.redis.tls.enabled }}
enableTLS: "true"
{{- end }}
{{- else -}}
address: {{ required "autoscaling.keda.redisAddress says where KEDA finds a Redis that is not the chart's own" $keda.redisAddress | quote }}
{{- end }}
{{- end -}}

{{- define "errata.kedaAuthentication" -}}
{{- with .keda.authentication -}}
authenticationRef: {name: {{ . }}}
{{- end }}
{{- end -}}
