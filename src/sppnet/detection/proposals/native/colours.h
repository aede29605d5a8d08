// Colour spaces in float, each channel about 0..255, and the smoothing before segmentation. Sums, products, quotients and
// square roots only, in a fixed order: every processor gets the same bits.
#pragma once

#include "../../../pooling/kernels/native/parallel.h"

#include <math.h>
#include <string.h>

enum Space { HSV, LAB, RGB };

struct Planes {
    int64_t height, width;
    float* channels[3];

    Planes(Arena& arena, int64_t height, int64_t width) : height(height), width(width) {
        for (float*& channel : channels) channel = arena.take<float>(height * width);
    }
    int64_t pixels() const { return height * width; }
};

inline float least(float a, float b) { return a < b ? a : b; }
inline float greatest(float a, float b) { return a > b ? a : b; }

// Positive root of y^power = x by Newton's steps down from 1, for 0 < x <= 1.
inline double root_by_newton(double x, int power) {
    double y = 1;
    for (int step = 0; step < 64; step++) {
        double slope = power;
        for (int i = 1; i < power; i++) slope *= y;
        y -= (slope * y / power - x) / slope;
    }
    return y;
}

// The cube root of 0.008 to 1.1, from a first guess by its exponent.
inline float cube_root(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = bits / 3 + 709921077;
    float y;
    memcpy(&y, &bits, sizeof y);
    for (int step = 0; step < 2; step++) {  // Halley's
        float cube = y * y * y;
        y *= (cube + 2 * x) / (2 * cube + x);
    }
    return y;
}

inline void hsv_of(const float* rgb, float* hsv) {
    float red = rgb[0], green = rgb[1], blue = rgb[2];
    float most = greatest(red, greatest(green, blue)), range = most - least(red, least(green, blue));
    float slope = range > 0 ? 30 / range : 0;
    float hue = most == red ? slope * (green - blue) : most == green ? 60 + slope * (blue - red) : 120 + slope * (red - green);
    hsv[0] = hue < 0 ? hue + 180 : hue;  // half degrees
    hsv[1] = most > 0 ? 255 * range / most : 0;
    hsv[2] = most;
}

inline float lightness_root(float t) { return t > 0.008856f ? cube_root(t) : 7.787f * t + 16 / 116.f; }

// Of linear red, green and blue 0..1, under D65.
inline void lab_of(const float* rgb, float* lab) {
    float x = lightness_root((0.412453f * rgb[0] + 0.357580f * rgb[1] + 0.180423f * rgb[2]) / 0.950456f);
    float y = lightness_root(0.212671f * rgb[0] + 0.715160f * rgb[1] + 0.072169f * rgb[2]);
    float z = lightness_root((0.019334f * rgb[0] + 0.119193f * rgb[1] + 0.950227f * rgb[2]) / 1.088754f);
    lab[0] = 2.55f * (116 * y - 16);
    lab[1] = 500 * (x - y) + 128;
    lab[2] = 200 * (y - z) + 128;
}

// What 0..255 stands for: itself, or the amount of light 0..1 by sRGB's curve.
inline void fill_levels(Space space, float* levels) {
    for (int i = 0; i < 256; i++) {
        double v = i / 255.0;
        levels[i] = float(i);
        if (space != LAB) continue;
        double fifth = v > 0.04045 ? root_by_newton((v + 0.055) / 1.055, 5) : 0, fourth = fifth * fifth * fifth * fifth;
        levels[i] = v > 0.04045 ? float(fourth * fourth * fourth) : float(v / 12.92);
    }
}

// `rgb`: three planes of bytes.
inline void fill_planes(const uint8_t* rgb, Space space, Planes& planes) {
    float levels[256];
    fill_levels(space, levels);
    int64_t n = planes.pixels();
    for (int64_t i = 0; i < n; i++) {
        float from[3] = {levels[rgb[i]], levels[rgb[n + i]], levels[rgb[2 * n + i]]}, to[3];
        if (space == HSV)
            hsv_of(from, to);
        else if (space == LAB)
            lab_of(from, to);
        else
            memcpy(to, from, sizeof to);
        for (int c = 0; c < 3; c++) planes.channels[c][i] = to[c];
    }
}

// A Gaussian of sigma 0.8, the pixels at the border repeated beyond it.
constexpr int REACH = 4;
constexpr float GAUSSIAN[REACH + 1] = {0.49867460f, 0.22830987f, 0.02191023f, 0.00044074f, 0.00000186f};

inline int64_t clamped(int64_t i, int64_t count) { return i < 0 ? 0 : i < count ? i : count - 1; }

inline void smooth_rows(const float* from, float* to, float* padded, int64_t height, int64_t width) {
    for (int64_t y = 0; y < height; y++, from += width, to += width) {
        for (int64_t x = -REACH; x < width + REACH; x++) padded[x + REACH] = from[clamped(x, width)];
        const float* middle = padded + REACH;
        for (int64_t x = 0; x < width; x++) {
            float sum = GAUSSIAN[0] * middle[x];
            for (int j = 1; j <= REACH; j++) sum += GAUSSIAN[j] * (middle[x - j] + middle[x + j]);
            to[x] = sum;
        }
    }
}

inline void smooth_columns(const float* from, float* to, int64_t height, int64_t width) {
    for (int64_t y = 0; y < height; y++) {
        const float *up[REACH + 1], *down[REACH + 1];
        for (int j = 0; j <= REACH; j++) {
            up[j] = from + clamped(y - j, height) * width;
            down[j] = from + clamped(y + j, height) * width;
        }
        for (int64_t x = 0; x < width; x++) {
            float sum = GAUSSIAN[0] * up[0][x];
            for (int j = 1; j <= REACH; j++) sum += GAUSSIAN[j] * (up[j][x] + down[j][x]);
            to[y * width + x] = sum;
        }
    }
}

inline bool smooth(Planes& planes) {
    Arena arena;
    float* rows = arena.take<float>(planes.pixels());
    float* padded = arena.take<float>(planes.width + 2 * REACH);
    if (arena.failed) return false;
    for (float* channel : planes.channels) {
        smooth_rows(channel, rows, padded, planes.height, planes.width);
        smooth_columns(rows, channel, planes.height, planes.width);
    }
    return true;
}
