{{/* A variable from an entry of a Secret: (list context name settings). */}}
{{- define "reranker.secretVariable" -}}
{{- $top := index . 0 -}}
{{- $name := index . 1 -}}
{{- $setting := index . 2 -}}
{{- if or $setting.value $setting.existingSecret }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $setting.existingSecret | default (include "reranker.name" $top) }}
      key: {{ $setting.key }}
{{- end }}
{{- end -}}

{{/* cuda for one GPU, cuda:0,cuda:1 for two. */}}
{{- define "reranker.device" -}}
{{- if not .Values.gpu.enabled -}}
cpu
{{- else if eq (int .Values.gpu.count) 1 -}}
cuda
{{- else -}}
{{- $devices := list -}}
{{- range $index := until (int .Values.gpu.count) -}}
{{- $devices = append $devices (printf "cuda:%d" $index) -}}
{{- end -}}
{{- join "," $devices -}}
{{- end -}}
{{- end -}}

{{- define "reranker.variables" -}}
- name: RERANKER_MODEL
  value: {{ .Values.model.id | quote }}
{{- with .Values.model.revision }}
- name: RERANKER_REVISION
  value: {{ . | quote }}
{{- end }}
- name: DEVICE
  value: {{ include "reranker.device" . | quote }}
{{- if .Values.gpu.enabled }}
- name: RERANKER_REQUIRE_GPU
  value: {{ .Values.gpu.required | quote }}
{{- end }}
- name: RERANKER_PORT
  value: "8002"
- name: RERANKER_DRAIN_TIMEOUT_MS
  value: {{ mul .Values.drain.timeoutSeconds 1000 | quote }}
{{- if include "reranker.keys" . }}
- name: RERANKER_API_KEY_FILE
  value: /etc/reranker/keys/{{ .Values.apiKeys.fileKey }}
{{- end }}
{{- if .Values.tls.existingSecret }}
- name: RERANKER_TLS_CERT
  value: /etc/reranker/tls/tls.crt
- name: RERANKER_TLS_KEY
  value: /etc/reranker/tls/tls.key
{{- end }}
{{- include "reranker.secretVariable" (list . "HF_TOKEN" .Values.hubToken) }}
{{- include "reranker.secretVariable" (list . "RERANKER_REDIS_URL" .Values.redisUrl) }}
{{- include "reranker.secretVariable" (list . "RERANKER_CACHE_SECRET" .Values.cacheSecret) }}
{{- range $name, $value := .Values.options }}
- name: {{ $name }}
  {{- /* A large number would be written as 3.3554432e+07. */}}
  value: {{ (kindIs "float64" $value | ternary (printf "%.0f" (float64 $value)) (toString $value)) | quote }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Three questions. Startup: is the model there? Readiness: is there an answer at once? If not,
     others get the requests. Liveness: has there been no answer at all for a minute? Then only a
     new start helps. /health and /ping need no key and no place among the connections, so a pod
     with much to do passes. */}}
{{- define "reranker.probes" -}}
startupProbe:
  httpGet: {path: /health, port: http, scheme: {{ include "reranker.scheme" . }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add .Values.probes.startupSeconds 4) 5 }}
readinessProbe:
  httpGet: {path: /health, port: http, scheme: {{ include "reranker.scheme" . }}}
  periodSeconds: 5
  timeoutSeconds: 4
  failureThreshold: {{ div (add .Values.probes.readinessSeconds 4) 5 }}
livenessProbe:
  httpGet: {path: /ping, port: http, scheme: {{ include "reranker.scheme" . }}}
  periodSeconds: 10
  timeoutSeconds: 9
  failureThreshold: {{ div (add .Values.probes.livenessSeconds 9) 10 }}
{{- end -}}

{{- define "reranker.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $gpus := dict .Values.gpu.resource (int .Values.gpu.count) -}}
{{- $_ := set $resources "limits" (merge (dict) $gpus ($resources.limits | default dict)) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end -}}

{{- define "reranker.container" -}}
image: {{ include "reranker.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- include "reranker.variables" . | nindent 2 }}
ports:
  - name: http
    containerPort: 8002
    protocol: TCP
{{ include "reranker.probes" . }}
lifecycle:
  preStop:
    exec:
      command: ["sleep", {{ .Values.drain.preStopSeconds | quote }}]
resources:
  {{- include "reranker.resources" . | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: models
    mountPath: /models
  {{- if include "reranker.keys" . }}
  - name: keys
    mountPath: /etc/reranker/keys
    readOnly: true
  {{- end }}
  {{- if .Values.tls.existingSecret }}
  - name: tls
    mountPath: /etc/reranker/tls
    readOnly: true
  {{- end }}
{{- end -}}

{{/* Volumes, but for one that a StatefulSet makes for each pod. */}}
{{- define "reranker.volumes" -}}
{{- if eq .Values.model.cache.type "claim" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ .Values.model.cache.existingClaim | default (printf "%s-models" (include "reranker.name" .)) }}
{{- else if eq .Values.model.cache.type "emptyDir" }}
- name: models
  emptyDir:
    sizeLimit: {{ .Values.model.cache.size }}
{{- end }}
{{- with include "reranker.keys" . }}
- name: keys
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* The pod: (list context name-of-the-container). KServe wants a name of its own. */}}
{{- define "reranker.pod" -}}
{{- $name := index . 1 -}}
{{- with index . 0 -}}
serviceAccountName: {{ include "reranker.serviceAccount" . }}
automountServiceAccountToken: false
# Kubernetes would set RERANKER_PORT=tcp://… for a Service named reranker.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "reranker.grace" . }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
# The user of the images. The group owns the volume and may read the Secrets.
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
containers:
  - name: {{ $name }}
    {{- include "reranker.container" . | nindent 4 }}
{{- with include "reranker.volumes" . | trim }}
volumes:
  {{- . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "reranker.selector" . | nindent 8 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or .Values.tolerations .Values.gpu.enabled }}
tolerations:
  {{- with .Values.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if .Values.gpu.enabled }}
  - key: {{ .Values.gpu.resource }}
    operator: Exists
    effect: NoSchedule
  {{- end }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "reranker.podLabels" -}}
{{ include "reranker.labels" . }}
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets are read as variables at the start only: a change must start the pods anew. */}}
{{- define "reranker.podAnnotations" -}}
checksum/secret: {{ list .Values.hubToken.value .Values.redisUrl.value .Values.cacheSecret.value | toJson | sha256sum }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}
