{{/* The name of all objects. */}}
{{- define "reranker.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that find the pods, and never change. */}}
{{- define "reranker.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "reranker.labels" -}}
{{ include "reranker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "reranker.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "reranker.name" .) -}}
{{- end -}}

{{- define "reranker.image" -}}
{{- $device := ternary "gpu" "cpu" .Values.gpu.enabled -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default (printf "%s-%s" .Chart.AppVersion $device)) -}}
{{- end -}}

{{/* The Secret with the keys of clients; empty without one. */}}
{{- define "reranker.keys" -}}
{{- if .Values.apiKeys.existingSecret -}}
{{- .Values.apiKeys.existingSecret -}}
{{- else if .Values.apiKeys.create -}}
{{- include "reranker.name" . }}-keys
{{- end -}}
{{- end -}}

{{/* HTTP or HTTPS, as probes write it. */}}
{{- define "reranker.scheme" -}}
{{- ternary "HTTPS" "HTTP" (ne .Values.tls.existingSecret "") -}}
{{- end -}}

{{/* Seconds from the order to end until the pod is killed: more than it needs at most. */}}
{{- define "reranker.grace" -}}
{{- add .Values.drain.preStopSeconds .Values.drain.timeoutSeconds 10 -}}
{{- end -}}
