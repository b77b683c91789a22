// Judges a picture by an exported model, in C++: the graph by ONNX Runtime, all else from the file's metadata.
//
//   g++ -std=c++17 -I $ORT/include examples/run_model.cpp -L $ORT/lib -lonnxruntime -o run_model
//   ./run_model flange.onnx part.ppm
//
// The picture is a binary PPM or PGM of 8 bits, resized to what the network sees: `size` in the metadata.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

// The numbers of a list in a JSON text, by the name before it: enough for what blemish writes.
static std::vector<double> numbers(const std::string& json, const std::string& name) {
  std::vector<double> found;
  size_t at = json.find("\"" + name + "\": [");
  if (at == std::string::npos) return found;
  for (at = json.find('[', at); json[at] != ']'; at = json.find_first_of(",]", at + 1))
    found.push_back(std::stod(json.substr(at + 1)));
  return found;
}

static bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

static std::string metadata(const Ort::Session& session, const char* key) {
  Ort::AllocatorWithDefaultOptions memory;
  Ort::AllocatedStringPtr text = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key, memory);
  return text ? text.get() : throw std::runtime_error("no blemish model; write one with blemish export");
}

int main(int count, char** arguments) try {
  if (count != 3) throw std::runtime_error("give a model and a picture: run_model flange.onnx part.ppm");
  Ort::Env env;
  Ort::Session session(env, arguments[1], Ort::SessionOptions{});
  const std::string about = metadata(session, "blemish"), known = metadata(session, "blemish.calibration");
  const std::vector<double> size = numbers(about, "size"), range = numbers(about, "value_range");

  std::ifstream file(arguments[2], std::ios::binary);
  std::string kind;
  int64_t width = 0, height = 0, most = 0;
  file >> kind >> width >> height >> most;
  const int64_t channels = kind == "P6" ? 3 : 1, pixels = width * height;
  if (!file || most != 255 || size != std::vector<double>{double(height), double(width)})
    throw std::runtime_error("the picture must be a PPM or PGM of 8 bits and of the size that the network sees");
  if (range != std::vector<double>{0, 255} || !has(about, "\"tiling\": null") || session.GetOutputCount() != 1)
    throw std::runtime_error("this example runs models of 8-bit images, without tiles or scores of their own");
  if (has(about, "\"counting\": {") || has(about, "\"products\": ["))
    throw std::runtime_error("this example runs models without sizes, regions of interest and products");
  std::vector<unsigned char> bytes(pixels * channels);
  file.ignore(1).read(reinterpret_cast<char*>(bytes.data()), bytes.size());

  std::vector<float> image(bytes.size());  // colour planes one after the other, from 0 to 1
  for (size_t i = 0; i < bytes.size(); ++i)
    image[i % channels * pixels + i / channels] = bytes[i] / 255.f;
  const int64_t shape[] = {1, channels, height, width};
  const auto cpu = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  const Ort::Value given = Ort::Value::CreateTensor<float>(cpu, image.data(), image.size(), shape, 4);
  const char *input = "input_images", *output = "output_scores";
  const auto answers = session.Run(Ort::RunOptions{nullptr}, &input, &given, 1, &output, 1);
  const float* map = answers[0].GetTensorData<float>();
  std::vector<double> values(map, map + answers[0].GetTensorTypeAndShapeInfo().GetElementCount());

  // the image's score: the mean of the largest values of the map, as many as the model says
  const std::string how = about.substr(about.find("\"image_score\": \"") + 16, 4);
  const size_t n = values.size(), share = std::max<size_t>(1, n / (how == "top1" ? 100 : 20));
  const size_t top = how == "max\"" ? 1 : how == "mean" ? n : share;
  std::partial_sort(values.begin(), values.begin() + top, values.end(), std::greater<>());
  const double score = std::accumulate(values.begin(), values.begin() + top, 0.0) / top;

  // how many of the good images that were held out score as high: the p-value, which is the promised rate
  const std::vector<double> good = numbers(known, "calibration.scores");
  const auto higher = std::count_if(good.begin(), good.end(), [&](double s) { return s >= score; });
  const double p = (1.0 + higher) / (good.size() + 1.0);
  std::printf("score %.9g, p-value %.6g: %s at 5 %%\n", score, p, p <= 0.05 ? "rejected" : "accepted");
} catch (const std::exception& error) {
  std::fprintf(stderr, "run_model: %s\n", error.what());
  return 2;
}
