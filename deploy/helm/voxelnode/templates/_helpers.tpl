{{- define "voxelnode.labels" -}}
app.kubernetes.io/name: voxelnode
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "voxelnode.pod" -}}
metadata:
  labels:
    {{- include "voxelnode.labels" . | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    checksum/config: {{ .Values.config | sha256sum }}
spec:
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  shareProcessNamespace: true  # a first process would ignore SIGTERM until it has loaded the program
  automountServiceAccountToken: false
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: node
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: ["serve", "--create"]  # no pod starts without its volume
      env:
        - name: VOXELNODE_INDEX__URL
          value: {{ .Values.index.url | quote }}
        - name: PGPASSWORD
          valueFrom:
            secretKeyRef:
              name: {{ .Values.index.passwordSecret }}
              key: password
        - name: VOXELNODE_CLUSTER__HOST
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: VOXELNODE_CLUSTER__ROLES
          value: {{ .roles | quote }}
        - name: VOXELNODE_STORAGE__URL
          value: {{ .Values.objects.url | quote }}
        {{- with .Values.objects.endpoint }}
        - name: VOXELNODE_STORAGE__ENDPOINT
          value: {{ . | quote }}
        {{- end }}
        {{- with .Values.objects.region }}
        - name: VOXELNODE_STORAGE__REGION
          value: {{ . | quote }}
        {{- end }}
        {{- with .Values.objects.secret }}
        - name: AWS_ACCESS_KEY_ID
          valueFrom:
            secretKeyRef:
              name: {{ . }}
              key: AWS_ACCESS_KEY_ID
        - name: AWS_SECRET_ACCESS_KEY
          valueFrom:
            secretKeyRef:
              name: {{ . }}
              key: AWS_SECRET_ACCESS_KEY
        {{- end }}
        - name: VOXELNODE_DICOM__PORT
          value: "11112"
        {{- if .Values.dicom.tlsPort }}
        - name: VOXELNODE_DICOM__TLS_PORT
          value: "2762"
        - name: VOXELNODE_DICOM__TLS_CERTIFICATE
          value: /etc/voxelnode/tls/tls.crt
        - name: VOXELNODE_DICOM__TLS_KEY
          value: /etc/voxelnode/tls/tls.key
        {{- end }}
        - name: VOXELNODE_WEB__PORT
          value: "8080"
      ports:
        - name: dicom
          containerPort: 11112
        {{- if .Values.dicom.tlsPort }}
        - name: dicom-tls
          containerPort: 2762
        {{- end }}
        - name: web
          containerPort: 8080
      startupProbe:
        httpGet: {path: /healthz, port: web}
        periodSeconds: 5
        failureThreshold: 720
      livenessProbe:
        httpGet: {path: /healthz, port: web}
        periodSeconds: 30
        timeoutSeconds: 10
      readinessProbe:
        httpGet: {path: "/readyz?role={{ .component }}", port: web}
        periodSeconds: 10
        timeoutSeconds: 10
      resources:
        {{- .resources | toYaml | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: root
          mountPath: /var/lib/voxelnode
        - name: config
          mountPath: /etc/voxelnode/voxelnode.toml
          subPath: voxelnode.toml
          readOnly: true
        {{- if .Values.dicom.tlsPort }}
        - name: tls
          mountPath: /etc/voxelnode/tls
          readOnly: true
        {{- end }}
        - name: tmp
          mountPath: /tmp
  volumes:
    {{- with .scratch }}
    - name: root
      emptyDir:
        sizeLimit: {{ . }}
    {{- end }}
    {{- if .Values.dicom.tlsPort }}
    - name: tls
      secret:
        secretName: {{ required "dicom.tlsPort needs dicom.tlsSecret" .Values.dicom.tlsSecret }}
    {{- end }}
    - name: config
      configMap:
        name: {{ .Release.Name }}
    - name: tmp
      emptyDir: {}
{{- end }}
