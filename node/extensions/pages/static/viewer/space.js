// A volume in space, by NiiVue, which is loaded here and nowhere else.

let loading = null;

function library(url) {
  loading ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.addEventListener("load", () => resolve(globalThis.niivue));
    script.addEventListener("error", () => reject(new Error("the 3-D library cannot be loaded")));
    document.head.append(script);
  });
  return loading;
}

// Whether a GPU draws. Throws if nothing does.
export function hasGpu() {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) throw new Error("This browser cannot display volumes in space (WebGL 2 is missing).");
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
}

// Show a volume on a canvas. Values below `low` are transparent, and so are labels without a colour in `byLabel`.
export async function openSpace(canvas, { library: address, url, isCt, byLabel, low, high }) {
  const niivue = await library(address);
  const viewer = new niivue.Niivue({
    backColor: [0, 0, 0, 1], show3Dcrosshair: false, isOrientCube: true, isRadiologicalConvention: true, crosshairWidth: 0,
    dragAndDropEnabled: false, loadingText: "", logLevel: "error", isResizeCanvas: true, fontColor: [0.8, 0.83, 0.86, 1],
  });
  await viewer.attachToCanvas(canvas);
  viewer.setSliceType(viewer.sliceTypeRender);
  await viewer.loadVolumes([{ url, name: "reduced.nii.gz" }]);
  const [volume] = viewer.volumes;
  if (!byLabel) viewer.setColormap(volume.id, "gray");
  if (isCt) await viewer.setVolumeRenderIllumination(0.6);
  viewer.setRenderAzimuthElevation(160, 10);
  viewer.setScale(1.15);
  const space = {
    threshold: low,
    setThreshold(value) {
      space.threshold = value;
      volume.cal_min = value;
      volume.cal_max = Math.max(high, value + (high - low) / 10);
      viewer.updateGLVolume();
    },
    setLabels(shown) {
      const labels = [0, ...byLabel.keys()];
      const [R, G, B] = [0, 1, 2].map((channel) => labels.map((label) => byLabel.get(label)?.[channel] ?? 0));
      volume.setColormapLabel({ R, G, B, A: labels.map((label) => shown.has(label) ? 255 : 0), I: labels });
      viewer.updateGLVolume();
    },
    turn(right, up) {
      viewer.setRenderAzimuthElevation(viewer.scene.renderAzimuth + right, viewer.scene.renderElevation + up);
    },
    close() { viewer.gl?.getExtension("WEBGL_lose_context")?.loseContext(); },
  };
  if (byLabel) space.setLabels(byLabel);
  else space.setThreshold(low);
  return space;
}
