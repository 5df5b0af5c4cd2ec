{{/* What the operator is called everywhere. */}}
{{- define "fusebox.name" -}}fusebox-operator{{- end -}}

{{/* The name of both webhook configurations. */}}
{{- define "fusebox.webhooks" -}}fusebox{{- end -}}

{{/* The Secret that cert-manager fills. */}}
{{- define "fusebox.tlsSecret" -}}fusebox-operator-tls{{- end -}}

{{/* The labels by which the operator's pods are found; they must never change. */}}
{{- define "fusebox.selector" -}}
app.kubernetes.io/name: fusebox-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels of every object. What the operator itself makes is managed by `fusebox`. */}}
{{- define "fusebox.labels" -}}
{{ include "fusebox.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: fusebox
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- with .Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image's reference. Call it with (list $ .Values.image). */}}
{{- define "fusebox.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Whom the operator's roles are bound to. */}}
{{- define "fusebox.subjects" -}}
- kind: ServiceAccount
  name: {{ include "fusebox.name" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* The operations API: not without the right to write cluster-wide, since its overrides would reach further than asked. */}}
{{- define "fusebox.operations" -}}
{{- if and .Values.operations.enabled (not .Values.rbac.namespaces) }}true{{ end -}}
{{- end -}}

{{/* Where cert-manager writes the authority into objects of the API server. */}}
{{- define "fusebox.injectCa" -}}
{{- if .Values.certManager.enabled }}
cert-manager.io/inject-ca-from: {{ printf "%s/%s" .Release.Namespace (include "fusebox.tlsSecret" .) }}
{{- end }}
{{- end -}}

{{/* Values that don't fit together, in words. */}}
{{- define "fusebox.check" -}}
{{- if and .Values.rbac.namespaces .Values.webhook.enabled (not .Values.certManager.enabled) }}
{{- fail "rbac.namespaces: the operator may then not write the webhooks' certificates itself. Set certManager.enabled=true, or webhook.enabled=false" }}
{{- end }}
{{- if has .Release.Namespace .Values.rbac.namespaces }}
{{- fail "rbac.namespaces: the release's own namespace never gets sidecars; leave it out" }}
{{- end }}
{{- end -}}
