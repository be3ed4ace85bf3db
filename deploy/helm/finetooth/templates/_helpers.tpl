{{- define "finetooth.name" -}}
{{- if .Values.nameOverride -}}
{{- .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "finetooth.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "finetooth.labels" -}}
{{ include "finetooth.selector" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "finetooth.checked" -}}
{{- if not .Values.secret.name -}}
{{- fail "secret.name: name a Secret with the addresses of the database and the broker, and the first admin key" -}}
{{- end -}}
{{- if and .Values.objects.url .Values.objects.existingClaim -}}
{{- fail "objects: set url or existingClaim, not both" -}}
{{- end -}}
{{- if not (or .Values.objects.url .Values.objects.existingClaim) -}}
{{- fail "objects: set url to a bucket (s3://...), or existingClaim to a volume that all pods may mount (ReadWriteMany)" -}}
{{- end -}}
{{- end -}}

{{- define "finetooth.variables" -}}
{{- range $name, $value := . }}
- name: FINETOOTH_{{ $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end -}}
{{- end -}}

{{- define "finetooth.fromSecret" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.secret.name }}
      key: {{ .key }}
{{- end -}}

{{/* What every process needs to know. */}}
{{- define "finetooth.env" -}}
{{ include "finetooth.fromSecret" (dict "root" . "variable" "FINETOOTH_DATABASE_URL" "key" .Values.secret.keys.databaseUrl) }}
{{ include "finetooth.fromSecret" (dict "root" . "variable" "FINETOOTH_BROKER_URL" "key" .Values.secret.keys.brokerUrl) }}
{{- if .Values.objects.url }}
- name: FINETOOTH_OBJECT_URL
  value: {{ .Values.objects.url | quote }}
{{- with .Values.objects.endpoint }}
- name: FINETOOTH_OBJECT_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.objects.region }}
- name: AWS_DEFAULT_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.secret.keys.awsAccessKeyId }}
{{ include "finetooth.fromSecret" (dict "root" $ "variable" "AWS_ACCESS_KEY_ID" "key" .) }}
{{- end }}
{{- with .Values.secret.keys.awsSecretAccessKey }}
{{ include "finetooth.fromSecret" (dict "root" $ "variable" "AWS_SECRET_ACCESS_KEY" "key" .) }}
{{- end }}
{{- else }}
- name: FINETOOTH_OBJECT_DIR
  value: /objects
{{- end }}
{{- if .Values.caBundle.configMap }}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" }}
- name: {{ . }}
  value: /etc/finetooth/ca/{{ $.Values.caBundle.key }}
{{- end }}
{{- end }}
{{- include "finetooth.variables" .Values.settings }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "finetooth.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: data, mountPath: /data}
- {name: cache, mountPath: /cache}
{{- if .Values.objects.existingClaim }}
- {name: objects, mountPath: /objects}
{{- end }}
{{- if .Values.caBundle.configMap }}
- {name: ca, mountPath: /etc/finetooth/ca, readOnly: true}
{{- end }}
{{- end -}}

{{/* root, workSize, cacheSize, cacheClaim */}}
{{- define "finetooth.volumes" -}}
- name: tmp
  emptyDir: {}
- name: data
  emptyDir: {sizeLimit: {{ .workSize }}}
- name: cache
{{- if .cacheClaim }}
  persistentVolumeClaim: {claimName: {{ .cacheClaim }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .cacheSize | default "1Gi" }}}
{{- end }}
{{- with .root.Values.objects.existingClaim }}
- name: objects
  persistentVolumeClaim: {claimName: {{ . }}}
{{- end }}
{{- with .root.Values.caBundle.configMap }}
- name: ca
  configMap: {name: {{ . }}}
{{- end }}
{{- end -}}

{{/* root, nodeSelector, tolerations */}}
{{- define "finetooth.pod" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* root, image */}}
{{- define "finetooth.container" -}}
image: "{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  {{- include "finetooth.mounts" .root | nindent 2 }}
{{- end -}}

{{/* A worker asks the database whether it gets on, which takes a second of a processor: seldom. */}}
{{- define "finetooth.workerProbes" -}}
startupProbe:
  exec: {command: [python, -m, worker.health, {{ . }}, --liveness]}
  periodSeconds: 10
  timeoutSeconds: 20
  failureThreshold: 30
livenessProbe:
  exec: {command: [python, -m, worker.health, {{ . }}, --liveness]}
  periodSeconds: 60
  timeoutSeconds: 20
  failureThreshold: 3
readinessProbe:
  exec: {command: [python, -m, worker.health, {{ . }}]}
  periodSeconds: 60
  timeoutSeconds: 20
  failureThreshold: 1
{{- end -}}

{{- define "finetooth.celery" -}}
[celery, -A, worker.celery_app, worker, --loglevel, INFO, --pool, threads, -c, "1", -Q, {{ . }}, -n, "{{ . }}@%h", --without-mingle, --without-gossip]
{{- end -}}
