// Follows verdicts in Java: needs kafka-clients and jackson-databind, and nothing else.
//
//     java -cp "jars/*" FollowVerdicts.java 127.0.0.1:9092 my-enforcement
//
// The record below has the fields of `Verdict` in streams/contract/asyncapi.json that enforcement is likely to need.

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

public class FollowVerdicts {

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Verdict(
            String verdict_id,
            String content_id,
            String policy_id,
            String policy_version,
            String decision,
            List<String> rule_ids,
            Double score,
            String confidence,
            String reason,
            String surface,
            String supersedes) {}

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> options = new HashMap<>();
        options.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        options.put(ConsumerConfig.GROUP_ID_CONFIG, arguments[1]);
        options.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        options.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        options.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        String topic = arguments.length > 2 ? arguments[2] : "moderation.verdicts";

        // The last ids that were seen: brokers without transactions may hold a verdict twice.
        Set<String> seen = Collections.newSetFromMap(new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
                return size() > 100_000;
            }
        });
        ObjectMapper json = new ObjectMapper();
        try (var consumer = new KafkaConsumer<>(options, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(topic));
            while (true) {
                for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    Verdict verdict = json.readValue(record.value(), Verdict.class);
                    if (seen.add(verdict.verdict_id())) {
                        apply(verdict);
                    }
                }
                consumer.commitSync(); // after what was read is handled, never before
            }
        }
    }

    static void apply(Verdict verdict) {
        String instead = verdict.supersedes() == null ? "" : " in place of " + verdict.supersedes();
        System.out.printf("%s %s %s%s%n", verdict.content_id(), verdict.policy_id(), verdict.decision(), instead);
        System.out.flush();
    }
}
