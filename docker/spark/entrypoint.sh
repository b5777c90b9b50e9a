#!/usr/bin/env bash
# What a container of the Spark image is, by its first word:
#
#   master            the standalone master, on port 7077, its page on 8080
#   worker            a standalone worker of the master at $SPARK_MASTER, with $SPARK_WORKER_CORES and $SPARK_WORKER_MEMORY
#   executor          an executor on Kubernetes, as Spark's scheduler there starts it (its variables are Spark's own)
#   anything else     that command
set -euo pipefail
class="$SPARK_HOME/bin/spark-class"
case "${1:-}" in
    master)
        # Metrics for Prometheus; and no second, open door by which anybody submits jobs.
        sink=spark.metrics.conf.master.sink.prometheusServlet
        export SPARK_MASTER_OPTS="-D$sink.class=org.apache.spark.metrics.sink.PrometheusServlet \
            -D$sink.path=/metrics/master/prometheus -Dspark.master.rest.enabled=false ${SPARK_MASTER_OPTS:-}"
        exec "$class" org.apache.spark.deploy.master.Master --host "${SPARK_MASTER_HOST:-$(hostname)}"
        ;;
    worker)
        exec "$class" org.apache.spark.deploy.worker.Worker --host "$(hostname)" --webui-port 8081 "$SPARK_MASTER"
        ;;
    executor)
        # Options of the JVM come numbered, SPARK_JAVA_OPT_0 …, as one of them may hold spaces.
        options=()
        while read -r name; do options+=("${!name}"); done < <(compgen -v SPARK_JAVA_OPT_ | sort --version-sort)
        exec "${JAVA_HOME:-/usr}/bin/java" "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
            -cp "${SPARK_EXTRA_CLASSPATH:+$SPARK_EXTRA_CLASSPATH:}$SPARK_HOME/jars/*" \
            org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
            --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
            --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
            --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
        ;;
    *)
        exec "$@"
        ;;
esac
