// WebGL 2 without ceremony: programs, buffers, textures, an off-screen picture.

function makeProgram(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    const head = "#version 300 es\nprecision highp float;\nprecision highp int;\nprecision highp sampler2D;\n";
    gl.shaderSource(shader, head + source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  const places = {};
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(program, i);
    places[name] = gl.getUniformLocation(program, name);
  }
  return { program, places, slot: (name) => gl.getAttribLocation(program, name) };
}

function makeBuffer(gl, data, kind = gl.ARRAY_BUFFER, usage = gl.STATIC_DRAW) {
  const buffer = gl.createBuffer();
  gl.bindBuffer(kind, buffer);
  gl.bufferData(kind, data, usage);
  return buffer;
}

// Feed an attribute from a buffer. `options`: type, normalized, stride, offset, divisor.
function feed(gl, slot, buffer, size, options = {}) {
  if (slot < 0) return;
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.enableVertexAttribArray(slot);
  gl.vertexAttribPointer(slot, size, options.type ?? gl.FLOAT, options.normalized ?? false,
    options.stride ?? 0, options.offset ?? 0);
  gl.vertexAttribDivisor(slot, options.divisor ?? 0);
}

async function loadImage(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

// A picture as a smooth texture. `upsideDown`: texture coordinates start at the lower left.
function makeTexture(gl, image, upsideDown) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, upsideDown);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
  gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, false);
  gl.generateMipmap(gl.TEXTURE_2D);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  return texture;
}

const TABLE_WIDTH = 4096;

// Numbers as a texture that shaders index: entry i lies at (i % 4096, i / 4096).
function makeTable(gl, values, channels, inner, format, type) {
  const rows = Math.max(1, Math.ceil(values.length / channels / TABLE_WIDTH));
  if (rows > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Error("too many splats for this graphics card");
  const padded = new values.constructor(rows * TABLE_WIDTH * channels);
  padded.set(values);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, inner, TABLE_WIDTH, rows, 0, format, type, padded);
  for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
  return texture;
}

// Run `draw` into a picture of its own, with smooth edges; gives its RGBA bytes, first row on top.
function drawAside(gl, width, height, draw) {
  const many = gl.createFramebuffer(), one = gl.createFramebuffer(), made = [];
  const attach = (frame, kind, format, samples) => {
    const buffer = gl.createRenderbuffer();
    made.push(buffer);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.bindRenderbuffer(gl.RENDERBUFFER, buffer);
    gl.renderbufferStorageMultisample(gl.RENDERBUFFER, samples, format, width, height);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, kind, gl.RENDERBUFFER, buffer);
  };
  attach(one, gl.COLOR_ATTACHMENT0, gl.RGBA8, 0);
  attach(many, gl.COLOR_ATTACHMENT0, gl.RGBA8, 4);
  attach(many, gl.DEPTH_ATTACHMENT, gl.DEPTH_COMPONENT24, 4);
  gl.viewport(0, 0, width, height);
  draw();
  gl.bindFramebuffer(gl.READ_FRAMEBUFFER, many);
  gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, one);
  gl.blitFramebuffer(0, 0, width, height, 0, 0, width, height, gl.COLOR_BUFFER_BIT, gl.NEAREST);
  gl.bindFramebuffer(gl.FRAMEBUFFER, one);
  const rows = new Uint8Array(4 * width * height), bytes = new Uint8ClampedArray(rows.length);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rows);
  for (let y = 0; y < height; y++) {
    bytes.set(rows.subarray(4 * width * y, 4 * width * (y + 1)), 4 * width * (height - 1 - y));
  }
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  made.forEach((buffer) => gl.deleteRenderbuffer(buffer));
  [many, one].forEach((frame) => gl.deleteFramebuffer(frame));
  return bytes;
}
