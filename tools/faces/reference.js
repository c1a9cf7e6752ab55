// Runs the published networks with the package's own code, on pictures that are a formula, and prints their outputs as
// JSON: what `convert.py --reference` writes to tests/plugins/faces_reference.json, and the converted networks must equal.
const path = require('path');
const root = process.argv[2];
const load = (name) => require(require.resolve(name, { paths: [root] }));
const tf = load('@tensorflow/tfjs');
const faceapi = require(path.join(root, 'node_modules/@vladmandic/face-api/dist/face-api.node-wasm.js'));

// Whole numbers in 0..255, the same in every language.
const picture = (height, width) =>
  tf.tidy(() => {
    const values = new Float32Array(height * width * 3);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        for (let c = 0; c < 3; c++) values[(y * width + x) * 3 + c] = (((x * x + 3 * y * y) >> 5) + 5 * x + 90 * c) % 256;
    return tf.tensor3d(values, [height, width, 3]);
  });

(async () => {
  await tf.setBackend('cpu');
  await tf.ready();
  const models = path.join(root, 'node_modules/@vladmandic/face-api/model');
  const { tinyFaceDetector, faceLandmark68Net, faceRecognitionNet } = faceapi.nets;
  for (const net of [tinyFaceDetector, faceLandmark68Net, faceRecognitionNet]) await net.loadFromDisk(models);
  const list = (tensor) => Array.from(tensor.dataSync());
  const out = {
    detector: list(await tinyFaceDetector.forward(picture(160, 160), 160)),
    landmarks: list(await faceLandmark68Net.forward(picture(112, 112))),
    recogniser: list(await faceRecognitionNet.forward(picture(150, 150))),
  };
  console.log(JSON.stringify(out, (_, value) => (typeof value === 'number' ? Number(value.toPrecision(7)) : value)));
})();
