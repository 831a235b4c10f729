import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.beam.model.pipeline.v1.RunnerApi;
import org.apache.beam.runners.flink.FlinkBatchPortablePipelineTranslator;
import org.apache.beam.sdk.util.construction.graph.ExecutableStage;
import org.apache.beam.sdk.util.construction.graph.GreedyPipelineFuser;
import org.apache.beam.sdk.util.construction.graph.TrivialNativeTransformExpander;

/** Fuses pipelines as Beam's Flink job server does: a line a file, with the steps of each of its stages or what the fuser says. */
public class Fuse {
  public static void main(String[] files) throws Exception {
    var urns = FlinkBatchPortablePipelineTranslator.createTranslator().knownUrns();
    for (String file : files) {
      var line = new StringBuilder(file);
      try {
        var pipeline = RunnerApi.Pipeline.parseFrom(Files.readAllBytes(Path.of(file)));
        var fused = GreedyPipelineFuser.fuse(TrivialNativeTransformExpander.forKnownUrns(pipeline, urns));
        fused.toPipeline();
        for (ExecutableStage stage : fused.getFusedStages()) {
          line.append("\t");
          for (var step : stage.getTransforms()) line.append(step.getTransform().getUniqueName()).append(";");
        }
      } catch (RuntimeException error) {
        line.append("\trefused: ").append(error.toString().replaceAll("\\s+", " "));
      }
      System.out.println(line);
    }
  }
}
