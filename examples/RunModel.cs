// Judges a picture by an exported model, in C#: the graph by ONNX Runtime, all else from the file's metadata.
//
//   dotnet new console -o RunModel && cp examples/RunModel.cs RunModel/Program.cs && cd RunModel
//   dotnet add package Microsoft.ML.OnnxRuntime && dotnet run -- flange.onnx part.ppm
//
// The picture is a binary PPM or PGM of 8 bits, resized to what the network sees: `size` in the metadata.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using System.Text.Json;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

if (args.Length != 2) return Refuse("give a model and a picture: flange.onnx part.ppm");
using var session = new InferenceSession(args[0]);
Dictionary<string, string> metadata = session.ModelMetadata.CustomMetadataMap;
if (!metadata.ContainsKey("blemish")) return Refuse("no blemish model; write one with blemish export");
JsonElement about = JsonDocument.Parse(metadata["blemish"]).RootElement;
JsonElement known = JsonDocument.Parse(metadata["blemish.calibration"]).RootElement;
double[] size = Numbers(about.GetProperty("size"));
double[] range = Numbers(about.GetProperty("image_format").GetProperty("value_range"));

byte[] file = File.ReadAllBytes(args[1]);
var words = new List<string>();  // P6 or P5, width, height and the largest value; then come the pixels
int at = 0;
for (int start = 0; words.Count < 4 && at < file.Length; at++)
    if (char.IsWhiteSpace((char)file[at]))
    {
        if (at > start) words.Add(Encoding.ASCII.GetString(file, start, at - start));
        start = at + 1;
    }
if (words.Count < 4 || words[3] != "255" || !range.SequenceEqual(new[] { 0.0, 255.0 }))
    return Refuse("the picture must be a PPM or PGM of 8 bits, and the model one for 8 bits");
int channels = words[0] == "P6" ? 3 : 1, width = int.Parse(words[1]), height = int.Parse(words[2]);
if (size[0] != height || size[1] != width)
    return Refuse($"the network sees {size[0]} x {size[1]} pixels; resize the picture");
if (about.GetProperty("tiling").ValueKind != JsonValueKind.Null || session.OutputMetadata.Count != 1)
    return Refuse("this example runs models without tiles or scores of their own");
if (about.TryGetProperty("counting", out _) || about.TryGetProperty("products", out _))
    return Refuse("this example runs models without sizes, regions of interest and products");

var image = new DenseTensor<float>(new[] { 1, channels, height, width });  // from 0 to 1
for (int i = 0; i < width * height * channels; i++)
    image[0, i % channels, i / channels / width, i / channels % width] = file[at + i] / 255f;
using var answers = session.Run(
    new[] { NamedOnnxValue.CreateFromTensor("input_images", image) }, new[] { "output_scores" });
double[] values = answers.First().AsEnumerable<float>().Select(v => (double)v).OrderDescending().ToArray();

// the image's score: the mean of the largest values of the map, as many as the model says
int n = values.Length;
int top = about.GetProperty("image_score").GetString() switch
{
    "max" => 1, "mean" => n, "top1" => Math.Max(1, n / 100), _ => Math.Max(1, n / 20),
};
double score = values.Take(top).Average();

// how many of the good images that were held out score as high: the p-value, which is the promised rate
double[] good = known.TryGetProperty("calibration.scores", out JsonElement list) ? Numbers(list) : [];
double p = (1.0 + good.Count(s => s >= score)) / (good.Length + 1.0);
Console.WriteLine($"score {score:G9}, p-value {p:G6}: {(p <= 0.05 ? "rejected" : "accepted")} at 5 %");
return 0;

static double[] Numbers(JsonElement list) => list.EnumerateArray().Select(each => each.GetDouble()).ToArray();

static int Refuse(string why)
{
    Console.Error.WriteLine($"RunModel: {why}");
    return 2;
}
